/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * marks.h - marks of the CUDA backend: events that carry times; what they are for is told in
 * kernels/backend.h.
 */
#ifndef DS_KERNELS_CUDA_MARKS_H
#define DS_KERNELS_CUDA_MARKS_H

#include "base/error.h"

struct ds_cuda_marks {
    void **event; /* cudaEvent_t */
    unsigned count;
};

void ds__cuda_marks_close(struct ds_cuda_marks *marks);
int ds__cuda_marks_room(struct ds_cuda_marks *marks, unsigned count, struct ds_error *err);
/* `stream` is a cudaStream_t. */
int ds__cuda_mark(const struct ds_cuda_marks *marks, unsigned number, void *stream,
                  struct ds_error *err);
int ds__cuda_mark_time(const struct ds_cuda_marks *marks, unsigned number, double *seconds,
                       struct ds_error *err);

#endif
