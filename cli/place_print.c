/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * place_print.c - what place.h says of a placement as text and as JSON.
 */
#include <errno.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/place.h"
#include "launcher/bind.h"
#include "launcher/cores.h"
#include "launcher/remote/slurm.h"
#include "launcher/remote/transport.h"
#include "launcher/spec.h"

enum { LIST_BYTES = 16 * 1024 * 1024 };

/* What the agent of this machine will give to the ranks of a place; NULL: elsewhere that is for its
 * agent to say. */
static const struct ds_bound *bind_here(const struct ds_cli_place *place, uint32_t index,
                                        struct ds_arena *arena)
{
    const char *devices = place->devices != NULL ? place->devices[index] : NULL;
    const struct ds_bound *bound = NULL;
    struct ds_spec spec = {.ranks = place->placement.place[index].ranks, .no_gpus = place->no_gpus};
    cpu_set_t cores;

    if (place->transport != &ds_transport_local)
        return NULL;
    spec.env = ds_arena_alloc(arena, place->env.count + 1, sizeof(*spec.env));
    if (spec.env == NULL)
        return NULL;
    if (devices != NULL)
        spec.env[spec.envc++] = ds_arena_printf(arena, "CUDA_VISIBLE_DEVICES=%s", devices);
    if (devices != NULL && spec.env[0] == NULL)
        return NULL;
    for (size_t i = 0; i < place->env.count; i++)
        spec.env[spec.envc++] = place->env.item[i];
    (void)ds_cores_allowed(&cores);
    return ds_bind_host(&bound, &spec, &cores, place->cores, arena, NULL) == 0 ? bound : NULL;
}

static const char *gpu_here(const struct ds_bound *bound, uint32_t local)
{
    int gpu = bound != NULL ? bound->rank[local].gpu : -1;

    return gpu >= 0 ? bound->topology.gpu[gpu].pci : NULL;
}

void ds_cli_place_warn(const struct ds_cli_place *place)
{
    if (place->uncounted != NULL)
        ds_log(DS_LOG_WARNING,
               "nobody says how many slots host '%s' has: its GPUs are counted when the job "
               "starts, here it has one rank",
               place->uncounted);
}

void ds_cli_place_print(const struct ds_cli_place *place, struct ds_buf *out)
{
    char text[DS_CORES_TEXT];
    struct ds_arena arena;

    ds_arena_init(&arena);
    for (uint32_t i = 0; i < place->placement.places; i++) {
        const struct ds_place *host = &place->placement.place[i];
        const struct ds_bound *bound = bind_here(place, i, &arena);

        for (uint32_t local = 0; local < host->ranks; local++) {
            const char *gpu = gpu_here(bound, local);

            (void)ds_buf_printf(out, "rank %u  host %s  slot %u  ", host->first_rank + local,
                                host->host, ds_placement_slot(host, local));
            if (bound == NULL) {
                (void)ds_buf_printf(out, "%u core%s\n", place->cores, place->cores == 1 ? "" : "s");
                continue;
            }
            ds_cores_text(&bound->rank[local].cores, text);
            (void)ds_buf_printf(out, "cores %s%s%s\n", text, gpu != NULL ? "  gpu " : "",
                                gpu != NULL ? gpu : "");
        }
    }
    ds_arena_release(&arena);
}

void ds_cli_place_json(const struct ds_cli_place *place, const char *key, struct ds_json *json)
{
    char text[DS_CORES_TEXT];
    struct ds_arena arena;

    ds_arena_init(&arena);
    ds_json_array(json, key);
    for (uint32_t i = 0; i < place->placement.places; i++) {
        const struct ds_place *host = &place->placement.place[i];
        const struct ds_bound *bound = bind_here(place, i, &arena);

        for (uint32_t local = 0; local < host->ranks; local++) {
            ds_json_object(json, NULL);
            ds_json_u64(json, "rank", host->first_rank + local);
            ds_json_string(json, "host", host->host);
            ds_json_u64(json, "slot", ds_placement_slot(host, local));
            ds_json_u64(json, "cores", place->cores);
            if (bound != NULL) {
                ds_cores_text(&bound->rank[local].cores, text);
                ds_json_string(json, "cpus", text);
            }
            if (gpu_here(bound, local) != NULL)
                ds_json_string(json, "gpu", gpu_here(bound, local));
            ds_json_end_object(json);
        }
    }
    ds_json_end_array(json);
    ds_arena_release(&arena);
}

int ds_cli_place_srun(const struct ds_cli_place *place, struct ds_buf *out, struct ds_error *err)
{
    const struct ds_placement *placement = &place->placement;
    char libexec[DS_MAX_PATH], agent[DS_MAX_PATH];
    const char *const *argv;
    struct ds_arena arena;
    const char **host;
    int rc;

    if (place->transport != &ds_transport_slurm)
        return 0;
    rc = ds_cli_libexec(libexec, "", err);
    ds_arena_init(&arena);
    host = ds_arena_alloc(&arena, placement->places, sizeof(*host));
    for (uint32_t i = 0; host != NULL && i < placement->places; i++)
        host[i] = placement->place[i].host;
    if (rc == 0)
        rc = ds_path_join(agent, libexec, "dsrun-agent", err);
    if (rc == 0)
        rc = host == NULL
                 ? ds_fail(err, ENOMEM, "no memory for %u hosts", placement->places)
                 : ds_slurm_argv(&arena, host, placement->places, agent, &place->srun, &argv, err);
    for (size_t i = 0; rc == 0 && argv[i] != NULL; i++)
        (void)ds_buf_printf(out, "%s%s", i == 0 ? "" : " ", argv[i]);
    ds_arena_release(&arena);
    return rc;
}

int ds_cli_place_dry(const struct ds_cli_place *place,
                     void (*text)(const void *user, struct ds_buf *out),
                     void (*json)(const void *user, struct ds_json *out), const void *user)
{
    struct ds_error err = {0};
    struct ds_buf out, srun;
    struct ds_json object;
    int rc;

    ds_buf_init(&out, LIST_BYTES);
    ds_buf_init(&srun, LIST_BYTES);
    rc = ds_cli_place_srun(place, &srun, &err);
    if (json != NULL) {
        ds_json_init(&object, &out);
        ds_json_object(&object, NULL);
        json(user, &object);
        if (srun.len > 0)
            ds_json_string(&object, "srun", ds_buf_text(&srun));
        if (place->source != NULL)
            ds_json_string(&object, "hosts_from", place->source);
        ds_json_end_object(&object);
    } else {
        text(user, &out);
        if (place->source != NULL)
            (void)ds_buf_printf(&out, "hosts from %s\n", place->source);
        (void)ds_buf_puts(&out, ds_buf_text(&srun));
    }
    if (json != NULL || srun.len > 0)
        (void)ds_buf_puts(&out, "\n");
    if (rc == 0 && (out.failed || srun.failed))
        rc = ds_fail(&err, ENOMEM, "the placement is too long to print");
    if (rc == 0)
        rc = ds_fs_write_all(STDOUT_FILENO, ds_buf_text(&out), out.len, &err);
    ds_buf_release(&out);
    ds_buf_release(&srun);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    return rc == 0 ? DS_EXIT_OK : DS_EXIT_FAILURE;
}

/* As JSON. */
static void list_line(const char *key, const char *value, struct ds_buf *out)
{
    struct ds_json json;

    ds_json_init(&json, out);
    ds_json_object(&json, NULL);
    ds_json_string(&json, key, value);
    ds_json_end_object(&json);
    (void)ds_buf_puts(out, "\n");
}

int ds_cli_place_list(const struct ds_cli_place *place, bool as_json, struct ds_buf *out,
                      struct ds_error *err)
{
    struct ds_buf srun;
    int rc;

    for (uint32_t i = 0; i < place->placement.places; i++) {
        const char *host = place->placement.place[i].host;

        if (as_json)
            list_line("host", host, out);
        else
            (void)ds_buf_printf(out, "host %s\n", host);
    }
    if (place->source != NULL && as_json)
        list_line("hosts_from", place->source, out);
    else if (place->source != NULL)
        (void)ds_buf_printf(out, "hosts from %s\n", place->source);
    ds_buf_init(&srun, LIST_BYTES);
    rc = ds_cli_place_srun(place, &srun, err);
    if (rc == 0 && srun.len > 0 && as_json)
        list_line("srun", ds_buf_text(&srun), out);
    else if (rc == 0 && srun.len > 0)
        (void)ds_buf_printf(out, "%s\n", ds_buf_text(&srun));
    if (rc == 0 && (srun.failed || out->failed))
        rc = ds_fail(err, ENOMEM, "the list of hosts is too long to print");
    ds_buf_release(&srun);
    return rc;
}
