/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cudnn.c - the stand-in for cuDNN behind the fake runtime: a run is a kernel like another.
 *
 *     FAKE_CUDNN_VERSION=91001   what it says that it is; 91900
 *     FAKE_CUDNN_UNFIT=3         bits: configurations that have no plan, of two
 *     FAKE_CUDNN_FAIL=3          the third run is refused
 */
#define cudnnBackendExecute fake_execute /* without a stream, under another name */
#include "tests/cudaemu/fake_cudnn.c"
#undef cudnnBackendExecute

#include "tests/fakes/fake.h"

enum { EXECUTION_FAILED = 5000 };

int cudnnBackendExecute(void *handle, void *plan, void *pack);

__attribute__((constructor)) static void read_wishes(void)
{
    fake_cudnn.unfit = (unsigned)fake_number("FAKE_CUDNN_UNFIT", 0);
}

int cudnnBackendExecute(void *handle, void *plan, void *pack)
{
    void *stream = fake_cudnn_stream(handle);
    struct fake_cudnn_run *run;
    int s;

    if (fake_cudnn.runs + 1 == fake_number("FAKE_CUDNN_FAIL", 0))
        return EXECUTION_FAILED;
    run = fake_cudnn_prepare(plan, pack);
    if (fake_kept(stream, fake_cudnn_do, run))
        return 0;
    s = fake_launch(stream) == 0 ? 0 : EXECUTION_FAILED;
    if (s == 0) {
        fake_cudnn_do(run);
        fake_launched();
    }
    free(run);
    return s;
}
