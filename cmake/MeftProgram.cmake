# Owns: how meft's own programs and tests are built. Not used by a project that only includes the headers.
add_library(meft_program INTERFACE)
target_link_libraries(meft_program INTERFACE meft::models)
target_compile_options(meft_program INTERFACE -Wall -Wextra -Wpedantic $<$<BOOL:${MEFT_WERROR}>:-Werror>)
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

# meft_together(VARIABLE file...): the text of one source in which each file is in a namespace of its name, behind what all of
# them include, so that what they share is compiled once.
function(meft_together variable)
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
  list(PREPEND includes ${first})
  list(JOIN includes "\n" includes)
  set(${variable} "${includes}\n\n${bodies}" PARENT_SCOPE)
endfunction()

# meft_tests(GROUP SOURCES file... [EXAMPLES file...] [LINK target...]): a program GROUP_tests of all files. Of each of SOURCES a
# test by its name, and a program of that name which is built when it is asked for. Of each of EXAMPLES, whose function main
# gives 0 where what it claims holds, the test NAME_example.
function(meft_tests group)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;EXAMPLES;LINK")
  foreach(source IN LISTS arg_SOURCES)
    cmake_path(GET source STEM name)
    add_executable(${name} EXCLUDE_FROM_ALL "${source}")
    target_link_libraries(${name} PRIVATE meft_program meft_test_main ${arg_LINK})
    meft_doctest(${name} ${group} ${name})
  endforeach()
  meft_together(text ${arg_SOURCES} ${arg_EXAMPLES})
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
  set(together "${CMAKE_CURRENT_BINARY_DIR}/${group}_tests.cpp")
  file(GENERATE OUTPUT "${together}" CONTENT "${text}")
  add_executable(${group}_tests "${together}")
  target_include_directories(${group}_tests PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${group}_tests PRIVATE meft_program meft_test_main ${arg_LINK})
  target_compile_options(${group}_tests PRIVATE $<$<CONFIG:Release>:-O1>)  # they take longer to compile than to run
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
    set_property(TEST ${name} APPEND PROPERTY ENVIRONMENT MEFT_SANITIZED=1)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${seconds})
endfunction()
