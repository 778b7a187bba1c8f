/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_states - optimizer states in a file change where they are and nothing else: the bits of a run
 * that has them in memory, every optimizer that may; the line as whoever saves it sees it.
 */
#include "tests/engine/fixture.h"

#include <stdatomic.h>

#include "runtime/states.h"
#include "tests/tempdir.h"

/* The n-th read or write from now on fails, of whichever thread; 0: none. */
static atomic_int reads_left, writes_left;

static bool fails(atomic_int *left)
{
    return atomic_load(left) > 0 && atomic_fetch_sub(left, 1) == 1;
}

ssize_t __real_pread(int fd, void *to, size_t bytes, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t at);
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t at)
{
    if (!fails(&reads_left))
        return __real_pread(fd, to, bytes, at);
    errno = EIO;
    return -1;
}

ssize_t __real_pwrite(int fd, const void *from, size_t bytes, off_t at);
ssize_t __wrap_pwrite(int fd, const void *from, size_t bytes, off_t at);
ssize_t __wrap_pwrite(int fd, const void *from, size_t bytes, off_t at)
{
    if (!fails(&writes_left))
        return __real_pwrite(fd, from, bytes, at);
    errno = ENOSPC;
    return -1;
}

TestSuite(states, .init = tempdir_make, .fini = tempdir_remove);

struct setting {
    enum ds_optim_kind optim;
    unsigned family, world, local, stage;
    uint64_t passes;
    bool bf16, overlap, poison;
};

static const struct setting settings[] = {
    {.world = 1, .local = 1, .passes = 1},
    {.family = 1, .world = 2, .local = 2, .stage = 1, .passes = 3, .bf16 = true, .overlap = true},
    {.world = 3, .local = 3, .stage = 2, .passes = 1, .overlap = true, .poison = true},
    {.world = 4, .local = 2, .stage = 3, .passes = 2, .bf16 = true},
    {.optim = DS_OPTIM_ADAM, .world = 1, .local = 1, .passes = 2, .poison = true},
    {.optim = DS_OPTIM_LION, .world = 2, .local = 2, .stage = 3, .passes = 1},
    {.optim = DS_OPTIM_SGD, .family = 1, .world = 2, .local = 2, .passes = 1, .overlap = true},
    {.optim = DS_OPTIM_ADAGRAD, .world = 2, .local = 2, .stage = 1, .passes = 1, .bf16 = true},
    {.optim = DS_OPTIM_MUON, .world = 3, .local = 3, .stage = 2, .passes = 1},
    {.optim = DS_OPTIM_MUON, .family = 1, .world = 1, .local = 1, .passes = 2, .bf16 = true},
};

static struct test_run run_of(const struct setting *set, enum ds_offload offload)
{
    struct ds_model_shape shape =
        set->family == 0 ? test_gpt2(3, 128, 4, 257, 32) : test_llama(3, 128, 4, 2, 344, 257, 32);
    struct test_run run = {.world = set->world,
                           .local_world = set->local,
                           .threads = 1,
                           .steps = 4,
                           .overlap = set->overlap,
                           .poison_step = set->poison ? 2 : UINT64_MAX,
                           .tokens = "tests/reference/gpt2-tiny/tokens.safetensors"};

    run.job = test_job(shape, set->world * set->passes, 1, 17);
    run.job.zero.stage = set->stage;
    run.job.zero.once_per_host = set->stage < 3;
    run.job.zero.bucket_mb = 1;
    run.job.zero.shard_group = set->local != set->world ? DS_SHARD_NODE : DS_SHARD_ALL;
    run.job.offload.optim = offload;
    run.job.offload.path = tempdir;
    run.job.precision.compute = set->bf16 ? DS_COMPUTE_BF16 : DS_COMPUTE_FP32;
    run.job.optim.kind = set->optim;
    run.job.optim.momentum = set->optim == DS_OPTIM_SGD || set->optim == DS_OPTIM_MUON ? 0.9 : 0.0;
    return run;
}

/* A poisoned step is skipped: what the file has stays. */
Test(states, in_a_file_have_the_same_bits)
{
    for (unsigned i = 0; i < sizeof(settings) / sizeof(settings[0]); i += TEST_EVERY) {
        struct test_run here = run_of(&settings[i], DS_OFFLOAD_NONE);
        struct test_run there = run_of(&settings[i], DS_OFFLOAD_NVME);

        test_run_ok(&here);
        test_run_ok(&there);
        cr_assert_eq(there.plan.disk_bytes > 0, true);
        cr_assert_eq(there.result[2].nonfinite > 0, settings[i].poison);
        cr_assert(test_same(&here, &there), "setting %u", i);
        if (!settings[i].poison) /* that gathers once more */
            test_traffic_planned(&there, "states in a file");
        test_run_release(&here);
        test_run_release(&there);
    }
}

/* What cannot be opened ends the run with that, and nobody waits. */
Test(states, without_a_folder_are_refused)
{
    struct test_run run = run_of(&settings[0], DS_OFFLOAD_NVME);

    run.job.offload.path = tempdir_path("none");
    test_run(&run);
    cr_assert_eq(run.rc[0], -ENOENT);
    cr_assert(strstr(run.err[0].text, "the optimizer's states of rank 0") != NULL, "%s",
              run.err[0].text);
    test_run_release(&run);
}

/* Where the first read, which tries it, is refused: the note is for the log, and names the key. */
Test(states, without_direct_io_say_so)
{
    struct test_run run = run_of(&settings[0], DS_OFFLOAD_NVME);
    struct ds_error err = {0};
    struct ds_states *states;
    struct ds_plan plan;
    const char *note;
    void *rooms;

    cr_assert_eq(test_plan(&plan, &run, 0, &err), 0, "%s", err.text);
    rooms = malloc(plan.arena_bytes[DS_ARENA_MOMENTS]);
    cr_assert_not_null(rooms);
    atomic_store(&reads_left, 1);
    cr_assert_eq(ds_states_open(&states, &plan, tempdir, rooms, &err), 0, "%s", err.text);
    atomic_store(&reads_left, 0);
    note = ds_states_note(states);
    cr_assert_not_null(note);
    cr_assert(strstr(note, "the file system of offload.path '") != NULL &&
                  strstr(note, "' has no direct I/O") != NULL,
              "%s", note);
    ds_states_close(states);
    free(rooms);
    ds_plan_release(&plan);
}

/* In any piece of any step, the last write of all as well: the run ends with what the disk said. */
Test(states, on_a_disk_that_fails_end_the_run)
{
    unsigned failed[2] = {0};

    for (int n = 2; n < 1000; n += n < 60 ? 13 : 41) /* the first read tries direct I/O */
        for (unsigned write = 0; write < 2; write++) {
            struct test_run run = run_of(&settings[0], DS_OFFLOAD_NVME);

            run.overlap = n % 2 == 0;
            atomic_store(write ? &writes_left : &reads_left, n);
            test_run(&run);
            if (atomic_exchange(write ? &writes_left : &reads_left, 0) > 0) {
                cr_assert_eq(run.rc[0], 0);
            } else {
                failed[write]++;
                cr_assert_eq(run.rc[0], write ? -ENOSPC : -EIO, "%d: %s", n, run.err[0].text);
                cr_assert(strstr(run.err[0].text,
                                 write
                                     ? "cannot write the optimizer's states of rank 0 in '"
                                     : "cannot read the optimizer's states of rank 0 in '") != NULL,
                          "%s", run.err[0].text);
                cr_assert(strstr(run.err[0].text,
                                 "or set 'offload.optim' to cpu or none, and start again") != NULL);
            }
            test_run_release(&run);
        }
    cr_assert(failed[0] > 5 && failed[1] > 5, "%u reads, %u writes", failed[0], failed[1]);
}

/* Every range of the line, across pieces and states, is what was written there; the rest stays. */
Test(states, are_one_line)
{
    for (unsigned i = 0; i < 2; i++) {
        struct test_run run = run_of(&settings[i == 0 ? 3 : 8], DS_OFFLOAD_NVME);
        struct ds_error err = {0};
        struct ds_states *states;
        struct ds_plan plan;
        uint64_t all = 0;
        float *line, *got, *state[DS_OPTIM_STATES] = {NULL};
        void *rooms;

        cr_assert_eq(test_plan(&plan, &run, 1, &err), 0, "%s", err.text);
        for (unsigned k = 0; k < plan.optim_states; k++)
            all += ds_plan_state_elems(&plan, k);
        rooms = malloc(plan.arena_bytes[DS_ARENA_MOMENTS]);
        line = calloc(all, sizeof(*line));
        got = calloc(all, sizeof(*got));
        cr_assert(rooms != NULL && line != NULL && got != NULL);
        cr_assert_eq(ds_states_open(&states, &plan, tempdir, rooms, &err), 0, "%s", err.text);
        for (uint64_t first = 3, count = 1; first < all;
             first += count + 5, count = count * 3 + 1) {
            uint64_t n = all - first < count ? all - first : count;

            for (uint64_t k = 0; k < n; k++)
                line[first + k] = (float)(first + k);
            cr_assert_eq(ds_states_write(states, first, line + first, n, &err), 0, "%s", err.text);
        }
        cr_assert_eq(ds_states_read(states, 0, got, all, &err), 0, "%s", err.text);
        cr_assert_eq(memcmp(got, line, all * sizeof(*line)), 0);
        for (uint32_t p = 0; p < plan.pieces; p++) { /* as a step sees it */
            ds_states_load(states, p);
            cr_assert_eq(ds_states_use(states, p, state, &err), 0, "%s", err.text);
            for (unsigned k = 0; k < plan.optim_states; k++) {
                struct ds_held has = ds_plan_piece_state(&plan, p, k);
                uint64_t begin = has.first + (k > 0 ? ds_plan_state_elems(&plan, 0) : 0);

                cr_assert_eq(memcmp(state[k], line + begin, has.count * sizeof(*line)), 0);
                for (uint64_t e = 0; e < has.count; e++)
                    state[k][e] = -line[begin + e];
            }
            ds_states_store(states, p);
        }
        cr_assert_eq(ds_states_settle(states, &err), 0, "%s", err.text);
        cr_assert_eq(ds_states_read(states, 7, got, all - 7, &err), 0, "%s", err.text);
        for (uint64_t k = 7; k < all; k++)
            cr_assert_eq(got[k - 7], -line[k]);
        cr_assert_eq(ds_states_clear(states, &err), 0, "%s", err.text);
        cr_assert_eq(ds_states_read(states, 0, got, all, &err), 0, "%s", err.text);
        for (uint64_t k = 0; k < all; k++)
            cr_assert_eq(got[k], 0.0f);
        ds_states_close(states);
        ds_plan_release(&plan);
        free(rooms);
        free(line);
        free(got);
    }
}
