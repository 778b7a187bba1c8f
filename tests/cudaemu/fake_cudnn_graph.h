/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fake_cudnn_graph.h - between the descriptors of the stand-in for cuDNN and what it computes.
 */
#ifndef DS_TESTS_CUDAEMU_FAKE_CUDNN_GRAPH_H
#define DS_TESTS_CUDAEMU_FAKE_CUDNN_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FAKE_AXES = 4 };

struct fake_desc;
struct fake_cudnn_run;

void fake_insist(bool holds, const char *what);
/* How many values an attribute has, 0 when it was not set; they are copied. */
int64_t fake_get(const struct fake_desc *desc, int what, void *values);
int fake_kind(const struct fake_desc *desc);

void fake_check_tensor(const struct fake_desc *tensor);
void fake_check_graph(const struct fake_desc *graph);
size_t fake_graph_workspace(const struct fake_desc *graph);
struct fake_cudnn_run *fake_graph_run(const struct fake_desc *graph, const struct fake_desc *pack);

#endif
