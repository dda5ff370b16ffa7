# `cmake --install`: both libraries, headers, program, pkg-config and CMake package files, manual pages.
include(CMakePackageConfigHelpers)

install(TARGETS sqf_shared sqf_static EXPORT sqformat-targets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET sqf)
    install(TARGETS sqf RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    install(CODE "
        execute_process(COMMAND \"$<TARGET_FILE:sqf>\" help --man \"${PROJECT_BINARY_DIR}/man1\" COMMAND_ERROR_IS_FATAL ANY)
        file(INSTALL \"${PROJECT_BINARY_DIR}/man1/\" DESTINATION \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_MANDIR}/man1\")")
endif()
# What `make cuda` built, and the emulation of it, which --device cuda takes by SQF_CUDA_LIBRARY.
install(CODE "
    foreach(backend libsqf_cuda.so libsqf_cuda_emulated.so)
        if(EXISTS \"${PROJECT_BINARY_DIR}/lib/\${backend}\")
            file(INSTALL \"${PROJECT_BINARY_DIR}/lib/\${backend}\" DESTINATION
                \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_LIBDIR}\")
        endif()
    endforeach()")
install(DIRECTORY include/sqf DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_directory ${CMAKE_INSTALL_LIBDIR}/cmake/sqformat)
configure_package_config_file(cmake/sqformat-config.cmake.in sqformat-config.cmake
    INSTALL_DESTINATION ${package_directory})
write_basic_package_version_file(sqformat-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/sqformat-config.cmake ${PROJECT_BINARY_DIR}/sqformat-config-version.cmake
    DESTINATION ${package_directory})
install(EXPORT sqformat-targets NAMESPACE sqformat:: DESTINATION ${package_directory})

# The .pc file computes its prefix from its own place, so that `cmake --install --prefix` is free to choose one.
string(REGEX REPLACE "[^/]+" ".." up_from_libdir "${CMAKE_INSTALL_LIBDIR}")
configure_file(cmake/libsqf.pc.in libsqf.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/libsqf.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
