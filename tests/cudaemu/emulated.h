/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * emulated.h - the tests of tests/kernels/ on the CUDA kernels under emulation.
 *
 * Included before one of their files, it puts an emulated device in the place of the CPU's: where
 * the harness asks for an instruction set and a number of threads it gets another order of the
 * threads of a block instead.  So the references in double, the odd shapes, the poisoned outputs and
 * the demand for equal bits are those of the CPU backend, which meets the same references.  With
 * DS_TESTS_CUDNN a stand-in for cuDNN does the attention that it takes; DS_TESTS_CAPABILITY is the
 * device's compute capability if not 8.0.
 */
#ifndef DS_TESTS_CUDAEMU_EMULATED_H
#define DS_TESTS_CUDAEMU_EMULATED_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/sdpa.h"
#include "tests/cudaemu/fake_blaslt.h"
#include "tests/cudaemu/fake_cudnn.h"

#define DS_TESTS_EMULATED 1

void cudaemu_order(unsigned order);

#ifndef DS_TESTS_CAPABILITY
#define DS_TESTS_CAPABILITY 80
#endif

enum { EMULATED_SCRATCH = 1 << 19 };

struct emulated {
    struct ds_device device;
    struct ds_cuda_stream stream;
};

/* A stream for tests that call the kernels themselves, of a device that nobody watches. */
static inline struct ds_stream emulated_stream(void)
{
    static struct ds_device device;

    return (struct ds_stream){.kernels = &ds__cuda_kernels, .device = &device};
}

static inline void emulated_close(struct ds_device *device)
{
    struct emulated *e = (struct emulated *)(void *)device;

    ds__cuda_matmul_close(e->stream.matmul);
    ds__cuda_sdpa_close(e->stream.sdpa);
    free(e->stream.scratch);
    free(e);
}

static inline int emulated_alloc(struct ds_device *device, size_t bytes, void **out,
                                 struct ds_error *err)
{
    (void)device;
    (void)err;
    *out = malloc(bytes);
    return *out == NULL ? -ENOMEM : 0;
}

static inline void emulated_free(struct ds_device *device, void *memory, size_t bytes)
{
    (void)device;
    (void)bytes;
    free(memory);
}

static inline void emulated_cudnn(struct emulated *e)
{
#ifdef DS_TESTS_CUDNN
    const struct ds_cuda_sdpa_args sdpa = {.cudnn = &fake_cudnn_calls,
                                           .capability = DS_TESTS_CAPABILITY};

    if (ds__cuda_sdpa_open(&e->stream.sdpa, &sdpa, NULL) != 0)
        abort();
#else
    (void)e;
#endif
}

/* Where products are measured, and what was found is kept. */
static const char *emulated_choices;

static inline struct ds_device *open_cpu(const char *isa, unsigned threads, size_t scratch_bytes)
{
    static const struct ds_backend backend = {.name = "emulated",
                                              .close = emulated_close,
                                              .alloc = emulated_alloc,
                                              .free = emulated_free};
    const struct ds_cuda_matmul_args matmul = {.blaslt = &fake_blaslt_calls,
                                               .timer = fake_timer,
                                               .choices = emulated_choices,
                                               .device = "emulated",
                                               .epilogues = true};
    struct emulated *e;
    static unsigned seed = 2;
    unsigned order = threads == 3 ? seed++ : threads - 1; /* forward, backward, by chance */

    if (isa != NULL && strcmp(isa, "v4") != 0)
        return NULL; /* one instruction set */
    e = calloc(1, sizeof(*e));
    (void)scratch_bytes; /* what the CPU backend needs */
    if (e == NULL)
        abort();
    e->device.backend = &backend;
    e->device.stream = &e->stream.base;
    e->stream.base.kernels = &ds__cuda_kernels;
    e->stream.base.device = &e->device;
    e->stream.capability = DS_TESTS_CAPABILITY;
    if (ds__cuda_matmul_open(&e->stream.matmul, &matmul, NULL) != 0)
        abort();
    emulated_cudnn(e);
    e->stream.scratch_bytes = EMULATED_SCRATCH;
    if (posix_memalign(&e->stream.scratch, 16, EMULATED_SCRATCH) != 0)
        abort();
    memset(e->stream.scratch, 0xff, EMULATED_SCRATCH);
    cudaemu_order(order);
    return &e->device;
}

#endif
