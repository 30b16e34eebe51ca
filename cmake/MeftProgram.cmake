# Owns: how meft's own programs and tests are built. Not used by a project that only includes the headers.
add_library(meft_program INTERFACE)
target_link_libraries(meft_program INTERFACE meft::models)
target_compile_options(meft_program INTERFACE -Wall -Wextra -Wpedantic $<$<BOOL:${MEFT_WERROR}>:-Werror>)
# g++ looks for garbage less often: a twentieth of its time for half a gigabyte.
target_compile_options(meft_program INTERFACE
  $<$<AND:$<CXX_COMPILER_ID:GNU>,$<COMPILE_LANGUAGE:CXX>>:--param=ggc-min-heapsize=1000000>)
if(MEFT_SANITIZE)
  set(sanitize -fsanitize=${MEFT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(meft_program INTERFACE ${sanitize})
  target_link_options(meft_program INTERFACE ${sanitize})
endif()

# meft_programs([LINK target...]): each NAME.cpp in the current folder, and each subfolder NAME with .cpp files in it,
# is the program NAME.
function(meft_programs)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "LINK")
  file(GLOB entries CONFIGURE_DEPENDS *.cpp */*.cpp)
  foreach(entry IN LISTS entries)
    cmake_path(RELATIVE_PATH entry BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
    string(REGEX REPLACE "(/.*|[.]cpp)$" "" name "${entry}")
    if(NOT TARGET ${name})
      add_executable(${name})
      target_link_libraries(${name} PRIVATE meft_program ${arg_LINK})
    endif()
    target_sources(${name} PRIVATE "${entry}")
  endforeach()
endfunction()

# meft_together(VARIABLE OPTIMIZED file...): the text of one source in which each file is in a namespace of its name, behind what
# all of them include, so that what they share is compiled once. Under -O2 g++ optimizes the kernels and the standard library
# alone, which come first: to optimize all takes longer than it saves.
function(meft_together variable optimized)
  set(includes "")
  set(bodies "")
  foreach(source IN LISTS ARGN)
    cmake_path(GET source STEM name)
    file(STRINGS "${source}" lines REGEX "^#include [<\"]")
    list(APPEND includes ${lines})
    string(APPEND bodies "namespace ${name} {\n#include \"${source}\"\n}\n")
  endforeach()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${ARGN})
  list(REMOVE_DUPLICATES includes)
  set(first ${includes})
  list(FILTER first INCLUDE REGEX "// first$")
  list(REMOVE_ITEM includes "" ${first})
  if(optimized STREQUAL "-O2" AND NOT MEFT_SANITIZE)
    set(kernels ${includes})
    list(FILTER kernels INCLUDE REGEX "<([a-z_0-9.]+|meft/(base|memory|weights|backend)/.*)>$")
    list(REMOVE_ITEM includes "" ${kernels})
    list(APPEND first ${kernels} "#include <meft/backend/cpu/kernels.hpp>" "#pragma GCC optimize(\"O0\")")
  endif()
  list(JOIN first "\n" first)
  list(JOIN includes "\n" includes)
  set(${variable} "${first}\n${includes}\n\n${bodies}" PARENT_SCOPE)
endfunction()

# meft_tests(GROUP OPTIMIZED flag SOURCES file... [EXAMPLES file...] [PEERS file...] [WITH file...] [PROGRAMS name...]
# [LINK target...]): a program GROUP_tests of all files, those of WITH as they are. Of each of SOURCES a test by its name, and a
# program of that name, built in the same way when it is asked for. Of each of EXAMPLES, whose function main gives 0 where what it
# claims holds, the test NAME_example. Under a link of the name of one of PEERS it is that program; PROGRAMS are further links,
# whose programs files of WITH put into test::programs().
function(meft_tests group)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "OPTIMIZED" "SOURCES;EXAMPLES;PEERS;WITH;PROGRAMS;LINK")
  foreach(source IN LISTS arg_SOURCES)
    cmake_path(GET source STEM name)
    meft_together(text ${arg_OPTIMIZED} "${source}")
    meft_test_program(${name} ${arg_OPTIMIZED} "${text}" ${arg_LINK})
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
    meft_doctest(${name} ${group} ${name})
  endforeach()
  meft_together(text ${arg_OPTIMIZED} ${arg_SOURCES} ${arg_EXAMPLES} ${arg_PEERS})
  if(arg_EXAMPLES)
    string(APPEND text "static int status(int f()) { return f(); }\n"
      "static int status(int f(int, char**)) { return f(0, nullptr); }\n")
  endif()
  foreach(source IN LISTS arg_EXAMPLES)
    cmake_path(GET source STEM name)
    string(APPEND text "TEST_CASE(\"example ${name}\") { CHECK(status(${name}::main) == 0); }\n")
    add_test(NAME ${name}_example COMMAND ${group}_tests "--test-case=example ${name}")
    meft_test_properties(${name}_example)
    set_tests_properties(${name}_example PROPERTIES FAIL_REGULAR_EXPRESSION "test cases: *0 ")
  endforeach()
  foreach(source IN LISTS arg_WITH)
    string(APPEND text "#include \"${source}\"\n")
  endforeach()
  set(links "")
  if(arg_PEERS)
    string(APPEND text "#include \"programs.hpp\"\n")
  endif()
  foreach(source IN LISTS arg_PEERS)
    cmake_path(GET source STEM name)
    string(APPEND text "[[maybe_unused]] static const bool is_${name} =\n"
      "    (test::programs().push_back({\"${name}\", ${name}::main}), true);\n")
    list(APPEND arg_PROGRAMS ${name})
  endforeach()
  foreach(name IN LISTS arg_PROGRAMS)
    list(APPEND links COMMAND "${CMAKE_COMMAND}" -E create_symlink ${group}_tests ${name})
  endforeach()
  meft_test_program(${group}_tests ${arg_OPTIMIZED} "${text}" ${arg_LINK})
  if(links)
    add_custom_command(TARGET ${group}_tests POST_BUILD ${links} WORKING_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}" VERBATIM)
  endif()
endfunction()

# meft_test_program(NAME OPTIMIZED TEXT [target...]): the program NAME of the tests in TEXT, which meft_together began.
function(meft_test_program name optimized text)
  if(text MATCHES "#pragma GCC optimize")
    set(text "#pragma GCC push_options\n${text}#pragma GCC pop_options\n")
  endif()
  set(together "${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp")
  file(GENERATE OUTPUT "${together}" CONTENT "${text}")
  add_executable(${name} "${together}")
  target_include_directories(${name} PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE meft_program meft_test_main ${ARGN})
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:${optimized}>)
endfunction()

# meft_doctest(NAME GROUP FILE): the cases of FILE.cpp in GROUP's program as the test NAME.
function(meft_doctest name group file)
  add_test(NAME ${name} COMMAND ${group}_tests "--source-file=*/${file}.cpp"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}/tests")
  meft_test_properties(${name})
  set_tests_properties(${name} PROPERTIES FAIL_REGULAR_EXPRESSION "test cases: *0 ")
endfunction()

# meft_test_properties(NAME): the time limit, which is there to end a test that hangs and far above what a slow or busy
# machine takes; tenfold under sanitizers, which the environment tells scripts.
function(meft_test_properties name)
  set(seconds 6000)
  if(MEFT_SANITIZE)
    set(seconds 60000)
    # A forked child of tests starts threads, which the thread sanitizer refuses unless told.
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT MEFT_SANITIZED=1 TSAN_OPTIONS=die_after_fork=0)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${seconds})
endfunction()
