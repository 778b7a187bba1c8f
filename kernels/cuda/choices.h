/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * choices.h - which algorithm each matrix product has, in a file, so that it is the same next time.
 *
 * The fastest of some proposals is another one from time to time, and with it the last bits of a
 * sum. Who wants the fastest keeps what was found: the first process to need a product measures it
 * and adds a line; every later one, and every other that has the file, takes what stands there. The
 * file is locked while it is read and written, and who finds that another has been faster takes
 * that one's choice, so two ranks of a host do not choose apart.
 *
 * Format  a first line DS_CHOICES_HEADER, then lines `KEY = ` and DS_CHOICE_WORDS words of 16
 *         hexadecimal digits: the library's, or all of them ones for an epilogue that is an
 *         operation of its own. A last line that was not written to its end does not count.
 * Tests   tests/cudaemu/test_cuda_matmul.c
 */
#ifndef DS_KERNELS_CUDA_CHOICES_H
#define DS_KERNELS_CUDA_CHOICES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define DS_CHOICES_HEADER "dsrun matrix products 1"
enum { DS_CHOICE_WORDS = 8, DS_CHOICE_KEY = 256, DS_CHOICES_BYTES = 1 << 20 };

/* Open the file of that name, made if there is none, and wait until no other has it.  close() of
 * *file gives it back.  -EBADMSG it is another kind of file, -EIO. */
int ds__choices_open(int *file, const char *path, struct ds_error *err) DS_NODISCARD;

/* *found: `word` is what stands behind `key`.  -EBADMSG a line of it is broken, -ENOMEM, -EIO. */
int ds__choices_find(int file, const char *path, const char *key, uint64_t word[DS_CHOICE_WORDS],
                     bool *found, struct ds_error *err) DS_NODISCARD;

/* Add a line, which is in the file for good when this returns 0.  -EIO, -ENOSPC it is full. */
int ds__choices_add(int file, const char *path, const char *key,
                    const uint64_t word[DS_CHOICE_WORDS], struct ds_error *err) DS_NODISCARD;

#endif
