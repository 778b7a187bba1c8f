/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * cmd_plan.c - dsrun plan: what a run would take, without starting anything.
 *
 * The plan is printed whether or not it fits in this machine; that it does not is said, with exit
 * code 65, after it.
 *
 * Tests   tests/e2e/
 */
#include <errno.h>
#include <unistd.h>

#include "base/exit.h"
#include "base/fsio.h"
#include "base/log.h"
#include "cli/cli.h"
#include "cli/place.h"
#include "runtime/plan/plan.h"

enum { TEXT_BYTES = 1 << 30 }; /* of a schedule; grows as needed */

static void print(const struct ds_cli *cli, const struct ds_job *job,
                  const struct ds_cli_place *place, const struct ds_plan *plan, struct ds_buf *out)
{
    if (cli->json) {
        ds_plan_print_json(plan, cli->schedule, out);
        (void)ds_buf_puts(out, "\n");
        return;
    }
    ds_plan_describe(plan, job, out);
    (void)ds_buf_puts(out, "\n");
    ds_cli_place_print(place, out);
    (void)ds_buf_puts(out, "\n");
    ds_plan_print(plan, out);
    if (cli->schedule) {
        (void)ds_buf_puts(out, "\n");
        ds_plan_print_schedule(plan, out);
    }
}

static int show(const struct ds_cli *cli, const struct ds_job *job,
                const struct ds_cli_place *place, struct ds_error *err)
{
    const struct ds_plan_args args = {
        .job = job, .world = place->placement.world, .threads = place->threads};
    struct ds_plan plan;
    struct ds_buf out;
    int rc = ds_plan_build(&plan, &args, err);

    if (rc != 0)
        return rc;
    ds_buf_init(&out, TEXT_BYTES);
    print(cli, job, place, &plan, &out);
    if (out.failed)
        rc = ds_fail(err, ENOMEM, "the plan is too long to print");
    if (rc == 0)
        rc = ds_fs_write_all(STDOUT_FILENO, out.data, out.len, err);
    if (rc == 0)
        rc = ds_plan_check_fit(&plan, place->placement.place[0].ranks, ds_mem_available(), err);
    ds_buf_release(&out);
    ds_plan_release(&plan);
    return rc;
}

int ds_cmd_plan(const struct ds_cli *cli)
{
    struct ds_cli_place place = {0};
    struct ds_error err = {0};
    struct ds_job job;
    int rc = ds_cli_load_job(cli, &job, &err);

    if (rc == 0)
        rc = ds_cli_place(cli, &job, &place, &err);
    if (rc == 0)
        rc = ds_job_check_world(&job, place.placement.world, &err);
    if (rc == 0)
        rc = show(cli, &job, &place, &err);
    if (rc != 0)
        ds_log(DS_LOG_ERROR, "%s", ds_error_text(&err, rc));
    ds_cli_place_release(&place);
    ds_job_release(&job);
    return ds_exit_from_errno(rc);
}
