/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * machine.c - the contract is in machine.h.
 */
#include "cli/machine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/limits.h"

int ds_cli_machine(struct ds_cluster *cluster, const struct ds_job *job,
                   const struct ds_placement *placement, bool *found, struct ds_error *err)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    bool own = config == NULL || config[0] == '\0';
    char path[DS_MAX_PATH];
    int len, rc;

    *found = false;
    if (own && home == NULL)
        return 0;
    len = snprintf(path, sizeof(path), "%s%s/dsrun/machine.yaml", own ? home : config,
                   own ? "/.config" : "");
    if (len < 0 || (size_t)len >= sizeof(path))
        return 0;
    rc = ds_cluster_load(cluster, path, err);
    if (rc == -ENOENT) {
        ds_error_clear(err);
        return 0;
    }
    cluster->hosts = placement->places;
    cluster->ranks = placement->places > 0 ? placement->place[0].ranks : 0;
    *found = rc == 0 && ds_cluster_links(cluster) &&
             (job->offload.optim != DS_OFFLOAD_NVME || ds_cluster_disks(cluster)) &&
             cluster->hosts * cluster->ranks == placement->world;
    return rc;
}
