/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_save.c - what is saved by any number of ranks is what is loaded by any other.
 */
#include <errno.h>

#include "tests/ckpt/support.h"

TestSuite(save, .init = tempdir_make, .fini = tempdir_remove);

Test(save, any_world_loads_to_the_same_bits)
{
    static const unsigned worlds[] = {1, 2, 3, 5, 16, 17};
    struct set saved, loaded;
    struct ds_ckpt_state state;
    struct ds_error err = {0};

    set_init(&saved, 1.0f);
    for (size_t i = 0; i < sizeof(worlds) / sizeof(worlds[0]); i++) {
        struct ds_ckpt_save_args args;
        int rc[64];
        char run[32];
        const char *dir, *step;

        (void)snprintf(run, sizeof(run), "run-%u", worlds[i]);
        dir = tempdir_path(run);
        step = at(dir, "checkpoints/step-00000100");
        args = save_args(dir, &saved, 100);
        save_with_world(args, worlds[i], rc);
        for (unsigned r = 0; r < worlds[i]; r++)
            cr_assert(rc[r] == 0, "world %u rank %u: %d", worlds[i], r, rc[r]);
        set_init(&loaded, -7.0f);
        cr_assert(load_set(step, &loaded, &state, &err) == 0, "%s", err.text);
        cr_assert(set_equal(&saved, &loaded), "world %u", worlds[i]);
        cr_assert(state.step == 100 && state.samples == 800 && state.tokens == 51200);
        cr_assert(state.skipped == 1 && state.seed == UINT64_MAX && state.world == worlds[i]);
        cr_assert(state.job_digest == 0xfedcba9876543210u);
        cr_assert(memcmp(&state.shape, &args.state.shape, sizeof(state.shape)) == 0);
        cr_assert(ds_ckpt_verify(step, &err) == 0, "%s", err.text);
        set_release(&loaded);
    }
    set_release(&saved);
}
