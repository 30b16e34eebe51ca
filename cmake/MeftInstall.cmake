# Owns: the installed package. find_package(meft) gives meft::meft, and meft::models and meft::images where their
# dependencies are found.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(meft_config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/meft")

install(DIRECTORY include/meft DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")
install(TARGETS meft EXPORT meftTargets INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT meftTargets NAMESPACE meft:: DESTINATION "${meft_config_dir}")
if(TARGET meft_models)
  install(TARGETS meft_models EXPORT meftModelsTargets)
  install(EXPORT meftModelsTargets NAMESPACE meft:: DESTINATION "${meft_config_dir}")
endif()
if(TARGET meft_images)
  install(TARGETS meft_images EXPORT meftImagesTargets)
  install(EXPORT meftImagesTargets NAMESPACE meft:: DESTINATION "${meft_config_dir}")
endif()

set(meft_webp FALSE)
if(TARGET WebP::WebP)
  set(meft_webp TRUE)
endif()
configure_package_config_file(cmake/meftConfig.cmake.in "${PROJECT_BINARY_DIR}/meftConfig.cmake"
  INSTALL_DESTINATION "${meft_config_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/meftConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/meftConfig.cmake" "${PROJECT_BINARY_DIR}/meftConfigVersion.cmake"
  cmake/Findutf8proc.cmake cmake/FindWebP.cmake DESTINATION "${meft_config_dir}")
