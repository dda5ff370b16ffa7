/* Orthogonal matrices: Hadamard of every size that has one here, and random ones. Pure functions of size and seed. */
#ifndef SQF_PTQ_ROTATION_ORTHOGONAL_H
#define SQF_PTQ_ROTATION_ORTHOGONAL_H

#include <sqf/quantize.h>

#include "base/error.h"

/* A Hadamard rotation of n channels is M (x) H: H Sylvester's matrix of a power of two, M of the order that
 * sqf_hadamard_factor (sqf/quantize.h) returns: 1 for a power of two; else the smallest multiple (by 1, 2, 4 or 8) of
 * n's odd part that divides n and has a Hadamard matrix by Paley's constructions (768 = 12 * 64); else the odd part
 * itself (172 = 43 * 4). */

/* M [n, n] for an n that sqf_hadamard_factor returned, orthonormal: a Hadamard matrix over sqrt(n), or where none is
 * known here a random orthogonal one. */
sqf_status sqf_hadamard_factor_fill(size_t n, uint64_t seed, double *out, sqf_error *err);

/* The whole rotation [n, n], orthonormal: M (x) H / sqrt(2^k), with rows negated at random (signs) so that no input is
 * like another one's worst case. */
sqf_status sqf_hadamard_fill(size_t n, uint64_t seed, bool signs, double *out, sqf_error *err);

/* A random orthogonal matrix [n, n], uniform (Haar): the Q of a normal random matrix, signs fixed by R's diagonal. */
sqf_status sqf_orthogonal_random(size_t n, uint64_t seed, double *out, sqf_error *err);

/* matrix [n, n] becomes the nearest product Q of its QR decomposition, with the signs that keep Q close to it. */
sqf_status sqf_orthogonalize(size_t n, double *matrix, sqf_error *err);

#endif
