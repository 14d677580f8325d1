# How every target of vert is made: one library a folder, one test program a folder of tests.

set(VERT_WARNINGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Wnon-virtual-dtor
                  -Werror)

function(vert_options target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${VERT_WARNINGS}>)
  if(VERT_SANITIZE)
    # With sanitizers g++ 12 sees uninitialised values where there are none, in the standard library's own headers.
    target_compile_options(${target} PRIVATE -fsanitize=${VERT_SANITIZE} -fno-sanitize-recover=all
                                             -fno-omit-frame-pointer -Wno-maybe-uninitialized)
    if(VERT_SANITIZE MATCHES thread)
      target_compile_options(${target} PRIVATE -Wno-tsan)  # asio's fences, which ThreadSanitizer does not see
    endif()
    target_link_options(${target} PRIVATE -fsanitize=${VERT_SANITIZE})
  endif()
  if(VERT_GUIDED_FUZZING)
    target_compile_options(${target} PRIVATE -fsanitize-coverage=trace-pc,trace-cmp)
  endif()
endfunction()

# vert_library(NAME DEPS...): the library vert_NAME from all sources directly in this folder.
# It links only what is named, so a layer cannot reach what is above it.
function(vert_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp ${CMAKE_CURRENT_SOURCE_DIR}/*.S)
  add_library(vert_${name} STATIC ${sources})
  target_include_directories(vert_${name} PUBLIC ${CMAKE_SOURCE_DIR}/src)
  target_link_libraries(vert_${name} PUBLIC ${ARGN})
  vert_options(vert_${name})
endfunction()

# vert_test(NAME DEPS...): the GoogleTest program NAME from all sources directly in this folder.
# The program is one ctest; `ctest -L` selects by its label (unit, insn, ...), the target tests_LABEL builds them.
function(vert_test name)
  cmake_parse_arguments(arg "" "LABEL;TIMEOUT" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE ${arg_DEPS} GTest::gtest GTest::gtest_main)
  target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  vert_options(${name})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT TARGET tests_${arg_LABEL})
    add_custom_target(tests_${arg_LABEL})
  endif()
  add_dependencies(tests_${arg_LABEL} ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABEL}" TIMEOUT ${arg_TIMEOUT}
                       SKIP_REGULAR_EXPRESSION "NOTHING RUN")
endfunction()

# vert_guided(NAME SOURCES... DEPS...): the libFuzzer program guided_NAME from NAME.cpp, of the target `guided`; only
# with VERT_GUIDED_FUZZING. In that build, other programs than these cannot be linked.
function(vert_guided name)
  if(NOT VERT_GUIDED_FUZZING)
    return()
  endif()
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  file(GLOB engines /usr/lib/llvm-*/lib/libFuzzer.a)
  if(NOT engines)
    message(FATAL_ERROR "libFuzzer is missing; ./dev fuzz installs it")
  endif()
  list(GET engines -1 engine)
  add_executable(guided_${name} ${name}.cpp coverage.cpp ${arg_SOURCES})
  target_link_libraries(guided_${name} PRIVATE ${arg_DEPS} ${engine})
  target_link_options(guided_${name} PRIVATE -Wl,--wrap=__sanitizer_cov_trace_pc)
  target_include_directories(guided_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  vert_options(guided_${name})
  if(NOT TARGET guided)
    add_custom_target(guided)
  endif()
  add_dependencies(guided guided_${name})
endfunction()
