# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
# cli/dsrun.c, cli/agent.c and cli/worker.c are the mains.
SRC_cli := cli/cmd_attach.c cli/cmd_bench.c cli/cmd_check.c cli/cmd_ckpt.c cli/cmd_data.c cli/cmd_exec.c cli/cmd_generate.c cli/cmd_hosts.c cli/complete.c \
    cli/cmd_convert.c cli/cmd_eval.c cli/once.c $(addprefix cli/,convert.c convert_job.c convert_offload.c convert_optim.c convert_read.c convert_table.c convert_write.c) \
    cli/cmd_join.c cli/cmd_launch.c cli/cmd_logs.c cli/cmd_plan.c cli/cmd_ps.c cli/cmd_report.c cli/cmd_run.c cli/cmd_trust.c cli/cmd_tune.c \
    cli/console.c cli/count.c cli/device.c cli/env.c cli/envfile.c cli/fit.c cli/fold.c cli/generator.c cli/gpus.c cli/help.c cli/jobs.c cli/libexec.c \
    cli/load_job.c cli/machine.c cli/metrics.c cli/of_run.c cli/opt.c cli/opt_elsewhere.c $(addprefix cli/,page.c page_lines.c page_plot.c page_read.c page_series.c page_text.c size.c) cli/place.c cli/place_print.c cli/prompts.c cli/ranklogs.c cli/report.c \
    cli/rundir.c cli/sets.c cli/story.c cli/tail.c cli/text_out.c cli/tfevents.c cli/tokenize.c cli/watch.c
