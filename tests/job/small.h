/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * small.h - the smallest job, for tests.
 */
#ifndef DS_TESTS_SMALL_H
#define DS_TESTS_SMALL_H

/* Every required key on a line of its own. */
#define SMALL                                                                                      \
    "name: t\n"                                                                                    \
    "model:\n"                                                                                     \
    "  arch: gpt2\n"                                                                               \
    "  layers: 2\n"                                                                                \
    "  hidden: 64\n"                                                                               \
    "  heads: 4\n"                                                                                 \
    "  context: 32\n"                                                                              \
    "data:\n"                                                                                      \
    "  train: [a.txt]\n"                                                                           \
    "train:\n"                                                                                     \
    "  steps: 100\n"                                                                               \
    "  global_batch: 32\n"                                                                         \
    "  micro_batch: 8\n"

#endif
