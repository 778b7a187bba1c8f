/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * opt_elsewhere.c - options that other launchers have; the contract is in opt.h.
 */
#include <string.h>

#include "cli/opt.h"

/* Options of torchrun, deepspeed, mpirun and srun, and ours that do the same; docs/migrating.md. */
/* clang-format off */
static const struct {
    const char *theirs, *ours;
} foreign[] = {
    {"--nproc-per-node", "--slots"}, {"--num-gpus", "--slots"}, {"--ntasks-per-node", "--slots"},
    {"--gpus-per-node", "--slots"}, {"-np", "--slots"}, {"-n", "--slots"}, {"-ppn", "--slots"},
    {"--nnodes", "--nodes N|MIN:MAX"}, {"--num-nodes", "--nodes"}, {"-N", "--nodes"},
    {"--elastic-training", "--nodes MIN:MAX"}, {"--min-elastic-nodes", "--nodes MIN:MAX"},
    {"--max-elastic-nodes", "--nodes MIN:MAX"}, {"--machinefile", "--hostfile"}, {"--launcher", "--via"}, {"--max-restarts", "--restarts"},
    {"--log-dir", "--run-dir"}, {"--chdir", "--cwd"}, {"--wdir", "--cwd"},
    {"--export", "--env"}, {"-x", "--env"}, {"--launcher-args", "--srun-arg"},
};
/* clang-format on */

const char *ds__opt_elsewhere(const char *word)
{
    size_t len = strcspn(word, "0123456789");

    for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
        const char *theirs = foreign[i].theirs;
        size_t k = 0;

        while (k < len && (word[k] == theirs[k] || (k > 1 && word[k] == '_' && theirs[k] == '-')))
            k++;
        if (k == len && theirs[k] == '\0')
            return foreign[i].ours;
    }
    return NULL;
}
