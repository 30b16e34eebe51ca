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

# meft_tests(GROUP SOURCES file... [LINK target...]): a program GROUP_tests of all files, a test of each by its name, and
# for each a program of that name which is built when it is asked for.
function(meft_tests group)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LINK")
  set(includes "")
  set(bodies "")
  foreach(source IN LISTS arg_SOURCES)
    cmake_path(GET source STEM name)
    file(STRINGS "${source}" lines REGEX "^#include [<\"]")
    list(APPEND includes ${lines})
    string(APPEND bodies "namespace ${name} {\n#include \"${source}\"\n}\n")
    add_executable(${name} EXCLUDE_FROM_ALL "${source}")
    target_link_libraries(${name} PRIVATE meft_program meft_test_main ${arg_LINK})
    meft_doctest(${name} ${group} ${name})
  endforeach()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${arg_SOURCES})
  list(REMOVE_DUPLICATES includes)
  list(JOIN includes "\n" includes)
  set(together "${CMAKE_CURRENT_BINARY_DIR}/${group}_tests.cpp")
  file(GENERATE OUTPUT "${together}" CONTENT "${includes}\n\n${bodies}")
  add_executable(${group}_tests "${together}")
  target_include_directories(${group}_tests PRIVATE "${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${group}_tests PRIVATE meft_program meft_test_main ${arg_LINK})
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
