/** @file common.h
 *  Linkage, version and sizes that every public header shares. */
#ifndef SQF_COMMON_H
#define SQF_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(SQF_SHARED) && (defined(__GNUC__) || defined(__clang__))
#define SQF_API __attribute__((visibility("default")))
#else
#define SQF_API
#endif

#if defined(__GNUC__) || defined(__clang__)
#define SQF_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define SQF_PRINTF(format_index, first_argument)
#endif

/** Version of these headers; the build reads it from here. Semantic versioning. */
#define SQF_VERSION_MAJOR 0
#define SQF_VERSION_MINOR 1
#define SQF_VERSION_PATCH 0

#endif
