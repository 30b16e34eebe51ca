# Owns: the GPU path's targets. MEFT_CUDA says what meft::cuda is made of:
#   emulate  kernels/*.cu compiled by the host's compiler against kernels/emulate; needs neither CUDA nor a GPU
#   nvcc     kernels/*.cu compiled by nvcc, for sm_80, sm_90 and, from their PTX, later ones
#   off      there is no meft::cuda
# Tests link meft_cuda_tested: the emulated library, or with MEFT_CUDA_TESTS=device the one that nvcc made.
if(MEFT_TESTS)
  set(default emulate)
else()
  set(default off)
endif()
set(MEFT_CUDA ${default} CACHE STRING "What meft::cuda is made of: emulate, nvcc or off")
set(MEFT_CUDA_TESTS emulate CACHE STRING "Where tests run kernels: emulate, or device (with MEFT_CUDA=nvcc)")
set_property(CACHE MEFT_CUDA PROPERTY STRINGS emulate nvcc off)
set_property(CACHE MEFT_CUDA_TESTS PROPERTY STRINGS emulate device)
if(NOT MEFT_CUDA MATCHES "^(emulate|nvcc|off)$")
  message(FATAL_ERROR "meft: MEFT_CUDA is ${MEFT_CUDA}; it may be emulate, nvcc or off")
endif()
if(NOT MEFT_CUDA_TESTS MATCHES "^(emulate|device)$" OR (MEFT_CUDA_TESTS STREQUAL device AND NOT MEFT_CUDA STREQUAL nvcc))
  message(FATAL_ERROR "meft: MEFT_CUDA_TESTS is ${MEFT_CUDA_TESTS} and MEFT_CUDA is ${MEFT_CUDA}; tests run kernels "
    "on a device with MEFT_CUDA=nvcc only")
endif()

# Each in its own folder, for in one the language of a .cu file is C++ and in the other CUDA.
if(MEFT_CUDA STREQUAL nvcc)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90)
  endif()
  enable_language(CUDA)
  find_package(CUDAToolkit REQUIRED)
  add_subdirectory(kernels)
endif()
if(MEFT_CUDA STREQUAL emulate OR (MEFT_CUDA STREQUAL nvcc AND MEFT_TESTS))
  add_subdirectory(kernels/emulate)
endif()

if(MEFT_CUDA STREQUAL nvcc)
  add_library(meft::cuda ALIAS meft_cuda)
elseif(MEFT_CUDA STREQUAL emulate)
  add_library(meft::cuda ALIAS meft_emulated)
endif()
if(MEFT_TESTS AND NOT MEFT_CUDA STREQUAL off)
  add_library(meft_cuda_tested INTERFACE)
  if(MEFT_CUDA_TESTS STREQUAL device)
    target_link_libraries(meft_cuda_tested INTERFACE meft_cuda)
  else()
    target_link_libraries(meft_cuda_tested INTERFACE meft_emulated meft_emulator)
    target_compile_definitions(meft_cuda_tested INTERFACE MEFT_EMULATED)
  endif()
endif()
