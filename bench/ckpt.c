/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ckpt.c - how fast one rank writes a checkpoint, and reads it back.
 *
 *   ckpt FOLDER MIB     weights and two moments of MIB MiB together, saved at once in FOLDER and
 *                       loaded again; prints seconds as one JSON object
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fsio.h"
#include "base/rng.h"
#include "runtime/ckpt/ckpt.h"

enum { TENSORS = 16 };

static struct ds_ckpt_tensor tensor[3 * TENSORS];

static int make(uint64_t elems)
{
    static const char *const kinds[] = {"", "exp_avg.", "exp_avg_sq."};

    for (size_t i = 0; i < sizeof(tensor) / sizeof(tensor[0]); i++) {
        struct ds_ckpt_tensor *t = &tensor[i];

        (void)snprintf(t->name, sizeof(t->name), "%st%zu", kinds[i / TENSORS], i % TENSORS);
        t->dtype = DS_F32;
        t->ndim = 1;
        t->shape[0] = t->count = elems;
        t->data = malloc(elems * sizeof(float));
        if (t->data == NULL)
            return -1;
        ds_rng_fill_normal(t->data, elems, 1, i, 0, 1.0f);
    }
    return 0;
}

static double seconds_since(uint64_t began)
{
    return (double)(ds_clock_mono_ns() - began) / 1e9;
}

static int measure(const char *folder, struct ds_error *err)
{
    struct ds_ckpt_save_args args = {.run_dir = folder,
                                     .weights = tensor,
                                     .n_weights = TENSORS,
                                     .moments = tensor + TENSORS,
                                     .n_moments = 2 * (size_t)TENSORS,
                                     .world = 1};
    struct ds_ckpt_state state;
    char path[DS_MAX_PATH];
    uint64_t began = ds_clock_mono_ns();
    double saved, loaded;
    int rc = ds_ckpt_save(&args, err);

    saved = seconds_since(began);
    if (rc == 0)
        rc = ds_ckpt_resolve(folder, path, err);
    began = ds_clock_mono_ns();
    if (rc == 0)
        rc =
            ds_ckpt_load(path, &state, tensor, TENSORS, tensor + TENSORS, 2 * (size_t)TENSORS, err);
    loaded = seconds_since(began);
    if (rc == 0)
        (void)printf("{\"save_s\":%.6f,\"load_s\":%.6f}\n", saved, loaded);
    return rc;
}

int main(int argc, char **argv)
{
    struct ds_error err = {0};
    uint64_t mib = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;

    if (mib == 0 || make((mib << 20) / sizeof(tensor) * sizeof(tensor[0]) / sizeof(float)) < 0) {
        (void)fprintf(stderr, "usage: ckpt FOLDER MIB\n");
        return 64;
    }
    if (measure(argv[1], &err) < 0) {
        (void)fprintf(stderr, "ckpt: %s\n", err.text);
        return 1;
    }
    return 0;
}
