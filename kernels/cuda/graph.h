/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * graph.h - recordings of the CUDA backend; what they are is told in kernels/device.h.
 */
#ifndef DS_KERNELS_CUDA_GRAPH_H
#define DS_KERNELS_CUDA_GRAPH_H

#include "kernels/cuda/cuda.h"

int ds__cuda_record(struct ds_stream *stream, struct ds_error *err);
int ds__cuda_record_end(struct ds_stream *stream, struct ds_recording **out, struct ds_error *err);
int ds__cuda_play(struct ds_stream *stream, const struct ds_recording *recording,
                  struct ds_error *err);
void ds__cuda_record_drop(struct ds_recording *recording);

#endif
