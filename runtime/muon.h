/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * muon.h - Muon's update of one whole matrix: momentum whose singular values are brought near 1.
 *
 *   m = momentum m + (1 - momentum) g        u = (1 - momentum) g + momentum m, or m
 *   X = u / (|u| + 1e-7), |u| the Frobenius norm; five times, with A = X X' on the shorter side,
 *   X = (a + b A + c A A) X                  a, b, c = 3.4445, -4.7750, 2.0315
 *   p = p - lr weight_decay p - lr scale X
 *
 * The iteration needs the whole matrix.  The plan lays matrices out so that none crosses the border
 * of a shard (plan/owner.c): the rank that holds a matrix sums its gradient and updates it with no
 * message of its own.  Ranks of a team hold parts of it: these they gather (matrix.h), and each
 * makes the products of the whole.  Products are of FP32.
 *
 * Source  Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the other
 *         scale: Liu et al., "Muon is Scalable for LLM Training", 2025.
 * Tests   tests/engine/test_muon.c, test_update.c, test_stages.c; tests/kernels/test_muon.c
 */
#ifndef DS_RUNTIME_MUON_H
#define DS_RUNTIME_MUON_H

#include "runtime/update.h"

/* The update that ds_update() makes where `u` has rows and columns. */
int ds_muon_update(const struct ds_job *job, const struct ds_update *u, struct ds_stream *stream,
                   struct ds_error *err) DS_NODISCARD;

/* Make the matrix at the start of `work`, ds_optim_matrix_room() long, orthogonal; *out is where in
 * `work` the result lies. */
int ds_muon_orthogonalize(uint64_t rows, uint64_t cols, float *work, float **out,
                          struct ds_stream *stream, struct ds_error *err) DS_NODISCARD;

#endif
