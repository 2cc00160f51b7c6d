# libpepnet_cuda: kernels for NVIDIA GPUs, loaded by the package when somebody asks for them. Built where nvcc is; nothing
# else of the project needs it, or the CUDA toolkit, or a GPU.
set(PEPNET_CUDA "auto" CACHE STRING "auto: build libpepnet_cuda where nvcc 12.4 or newer works; on: or fail; off")

function(pepnet_find_nvcc result)
  find_program(PEPNET_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
  set(${result} "" PARENT_SCOPE)
  if(PEPNET_CUDA STREQUAL "off")
    set(pepnet_no_cuda "PEPNET_CUDA is off" PARENT_SCOPE)
    return()
  elseif(NOT PEPNET_NVCC)
    set(pepnet_no_cuda "no nvcc was found" PARENT_SCOPE)
    return()
  endif()
  execute_process(COMMAND "${PEPNET_NVCC}" --version OUTPUT_VARIABLE said ERROR_QUIET)
  string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" found "${said}")
  if(NOT found OR CMAKE_MATCH_1 VERSION_LESS 12.4)
    set(pepnet_no_cuda "expected nvcc 12.4 or newer, got ${CMAKE_MATCH_1} at ${PEPNET_NVCC}" PARENT_SCOPE)
    return()
  endif()
  # A toolkit may not know the C++ compiler that is there: that is found out before CMake makes an error of it.
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/probe.cu" "#include <vector>\n__global__ void probe() {}\n")
  execute_process(
    COMMAND "${PEPNET_NVCC}" -std=c++20 -ccbin "${CMAKE_CXX_COMPILER}" -arch=sm_80 -cubin -o probe.cubin probe.cu
    WORKING_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}" RESULT_VARIABLE failed OUTPUT_QUIET ERROR_VARIABLE said)
  if(failed)
    string(REGEX REPLACE "\n.*" "" said "${said}")
    set(pepnet_no_cuda "${PEPNET_NVCC} does not compile with ${CMAKE_CXX_COMPILER}: ${said}" PARENT_SCOPE)
    return()
  endif()
  set(${result} "${PEPNET_NVCC}" PARENT_SCOPE)
endfunction()

pepnet_find_nvcc(nvcc)
if(NOT nvcc)
  if(PEPNET_CUDA STREQUAL "on")
    message(FATAL_ERROR "cuda: ${pepnet_no_cuda}")
  endif()
  message(STATUS "cuda: libpepnet_cuda left out, ${pepnet_no_cuda}")
  return()
endif()

set(CMAKE_CUDA_COMPILER "${nvcc}")
set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 80-virtual)
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake before 3.26
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()

add_library(pepnet_cuda MODULE kernels/cuda/runtime.cu $<TARGET_OBJECTS:pepnet_cuda_host>)
set_target_properties(pepnet_cuda PROPERTIES
  PREFIX lib CUDA_STANDARD 20 CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
target_include_directories(pepnet_cuda PRIVATE ${PROJECT_SOURCE_DIR}/kernels)
# Registers, stack and spills of every kernel go to the build's output.
target_compile_options(pepnet_cuda PRIVATE
  -Xptxas=-v $<$<BOOL:${PEPNET_WERROR}>:-Werror=all-warnings>)
target_link_libraries(pepnet_cuda PRIVATE pepnet_core)
target_link_options(pepnet_cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,--no-undefined)
install(TARGETS pepnet_cuda LIBRARY DESTINATION pepnet_infer COMPONENT python)
