/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * fake.h - a CUDA runtime without a device, for tests: what kernels and the fake NCCL need of it.
 *
 * Memory of the device is memory of the process that nobody may touch but kernels, copies and
 * collectives: the host that reads it ends with SIGSEGV.  Fresh memory is NaN.  A stream is a queue
 * with a thread of its own: collectives run there, and copies to and from memory that stays where it
 * is, as late as can be, when somebody waits for them; kernels and other copies run in the caller,
 * after what the stream holds.  So who forgets to wait for another stream computes with old numbers,
 * and who writes too early into what is to be copied sends the new ones.
 *
 * A kernel that is given an address of the host's memory, unless it is page-locked, ends the process.
 *
 * While a stream is captured, kernels and copies are kept with the arguments that they were given,
 * and run each time the graph is launched; what waits for a device, or allocates, breaks the capture.
 *
 * From the environment of the process:
 *     FAKE_CUDA_DEVICES=2             how many there are; 1.  CUDA_VISIBLE_DEVICES chooses some
 *     FAKE_CUDA_FULL=1                the device of this number has 1 MiB left
 *     FAKE_CUDA_DRIVER=12040          its version, 0: none; 13000
 *     FAKE_CUDA_MEMORY=BYTES          of a device; 2 GiB
 *     FAKE_CUDA_OPEN=1                the host may touch it, too
 *     FAKE_CUDA_FAIL=cudaMalloc:3:2   the third such call gives error 2 (kernels: "launch"); an
 *     error
 *                                     of 700 or more is given to every later call, too
 *     FAKE_CUDA_RANK=1                the failure is of the process with that RANK only
 *     FAKE_CUDA_COUNT=FILE            at exit, in FILE.RANK: how often each call was made, one a line
 */
#ifndef DS_TESTS_FAKES_FAKE_H
#define DS_TESTS_FAKES_FAKE_H

#include <cuda_runtime_api.h>
#include <stdbool.h>

/* Kernels and collectives: between these the process may touch memory of the device. */
void fake_open(void);
void fake_close(void);
/* Is the stream being captured?  Then run(arg) is kept for it, arg is from malloc() and the
 * capture's, and fake_launch() is not to be called. */
bool fake_kept(void *stream, void (*run)(void *arg), void *arg);
/* Before a kernel on `stream`: 0, or why it is refused; then fake_close() is not due. */
int fake_launch(void *stream);
void fake_launched(void);
/* One argument of a kernel: nothing in it may be an address of the host's. */
void fake_given(const char *kernel, const void *arg, size_t bytes);
const char *fake_error_string(int error);
/* Queue run(arg) on the stream's thread. */
void fake_defer(cudaStream_t stream, void (*run)(void *arg), void *arg);
/* Is the `n`th (from 1) call of `name` to fail?  Its number, or 0. */
int fake_fault(const char *name);
#define FAKE_FAULT()                                                                               \
    do {                                                                                           \
        int fault = fake_fault(__func__);                                                          \
        if (fault != 0)                                                                            \
            return (cudaError_t)fault;                                                             \
    } while (0)

/* Is the current device the one that is full? */
bool fake_is_full(void);
/* How often `name` was called, this time included. */
unsigned long fake_count(const char *name);
/* A number of the environment. */
unsigned long fake_number(const char *name, unsigned long otherwise);

#endif
