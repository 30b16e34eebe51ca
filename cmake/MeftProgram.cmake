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

# meft_test(NAME SOURCES file...): a doctest program, run by ctest from the tests folder.
function(meft_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE meft_program meft_test_main)
  target_precompile_headers(${name} REUSE_FROM meft_test_main)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}/tests")
  meft_test_properties(${name})
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
