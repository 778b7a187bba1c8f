/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_gpus.c - what libraries say of GPUs, and libraries that crash, hang and chatter.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launcher/gpus.h"

#define GIB (UINT64_C(1) << 30)

static void two_gpus(struct ds_gpus *gpus)
{
    gpus->count = 2;
    gpus->gpu[0] = (struct ds_gpu){.used_bytes = 7 * GIB, .total_bytes = 80 * GIB, .processes = 3};
    gpus->gpu[1] = (struct ds_gpu){.used_bytes = GIB / 2, .total_bytes = 80 * GIB};
    gpus->nccl = 1; /* not its own to say */
}

static void nccl(struct ds_gpus *gpus)
{
    gpus->nccl = 22809;
    gpus->count = 5;
}

static void crash(struct ds_gpus *gpus)
{
    (void)gpus;
    (void)signal(SIGSEGV, SIG_DFL);
    (void)raise(SIGSEGV);
}

static void hang(struct ds_gpus *gpus)
{
    (void)gpus;
    for (;;)
        (void)pause();
}

static void too_many(struct ds_gpus *gpus)
{
    gpus->count = DS_GPUS_MOST + 1;
}

static void chatter(struct ds_gpus *gpus)
{
    gpus->count = (uint32_t)(write(STDOUT_FILENO, "x", 1) + write(STDERR_FILENO, "x", 1));
}

/* Is no child left? */
static bool alone(void)
{
    return waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD;
}

Test(gpus, each_child_says_its_own)
{
    struct ds_gpus gpus;

    ds__gpus_ask(&gpus, two_gpus, nccl, 60000);
    cr_expect(gpus.count == 2 && gpus.gpu[0].processes == 3 && gpus.gpu[1].used_bytes == GIB / 2);
    cr_expect_eq(gpus.nccl, 22809);
    cr_expect(alone());
}

Test(gpus, one_that_fails_is_not_the_other)
{
    static void (*const bad[])(struct ds_gpus *) = {crash, hang, too_many};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct ds_gpus gpus;

        ds__gpus_ask(&gpus, bad[i], crash, 100);
        cr_expect(gpus.count == 0 && gpus.nccl == 0, "%zu", i);
        cr_expect(alone());
        ds__gpus_ask(&gpus, two_gpus, crash, 60000);
        cr_expect(gpus.count == 2 && gpus.nccl == 0, "%zu", i);
    }
}

Test(gpus, what_they_print_goes_nowhere)
{
    int pipe_fd[2], out = dup(STDOUT_FILENO);
    struct ds_gpus gpus;
    char byte;

    cr_assert(out >= 0 && pipe(pipe_fd) == 0 && dup2(pipe_fd[1], STDOUT_FILENO) >= 0);
    (void)close(pipe_fd[1]);
    ds__gpus_ask(&gpus, chatter, nccl, 60000);
    cr_assert(dup2(out, STDOUT_FILENO) >= 0);
    cr_expect_eq(gpus.count, 2);
    cr_expect_eq(read(pipe_fd[0], &byte, 1), 0);
}

Test(gpus, which_are_free)
{
    static const struct {
        struct ds_gpu gpu;
        bool free;
    } table[] = {
        {{.used_bytes = 0, .total_bytes = 80 * GIB}, true},
        {{.used_bytes = 2 * GIB, .total_bytes = 80 * GIB}, true}, /* what a driver keeps */
        {{.used_bytes = 3 * GIB, .total_bytes = 80 * GIB}, false},
        {{.used_bytes = GIB, .total_bytes = 8 * GIB}, true},
        {{.used_bytes = GIB + 1, .total_bytes = 8 * GIB}, false},
        {{.used_bytes = 0, .total_bytes = 80 * GIB, .processes = 1}, false},
        {{.total_bytes = 0}, false}, /* it does not say */
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        cr_expect_eq(ds_gpu_is_free(&table[i].gpu), table[i].free, "row %zu", i);
}
