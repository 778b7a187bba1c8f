/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_console.c - the line of a step at every width, what goes where, and readers that stall or go.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "cli/console.h"

static const char step_json[] =
    "{\"step\":11,\"loss\":3.14159,\"grad_norm\":1.5,\"lr\":0.0003,\"tokens\":9,"
    "\"tokens_per_s\":12345.6,\"step_ms\":250,\"mfu\":0.456,\"skipped\":2,\"time\":1}";

static void step_line(const char *json, uint64_t steps, double step_ms, unsigned width,
                      struct ds_buf *out)
{
    json_t *object = json_loads(json, 0, NULL);

    ds_buf_init(out, 4096);
    ds_console_step_line(object, steps, step_ms, width, out);
    json_decref(object);
}

Test(console, step_line)
{
    static const struct {
        const char *json;
        uint64_t steps;
        double step_ms;
        unsigned width;
        const char *want;
    } table[] = {
        {step_json, 300, 250, 0,
         "step 12/300  loss 3.1416  lr 3.00e-04  12.3k tok/s  mfu 45.6%  left 1:12  norm 1.5  "
         "skipped 2"},
        {step_json, 300, 250, 79,
         "step 12/300  loss 3.1416  lr 3.00e-04  12.3k tok/s  mfu 45.6%  left 1:12"},
        {step_json, 300, 250, 39, "step 12/300  loss 3.1416  lr 3.00e-04"},
        {step_json, 300, 250, 36, "step 12/300  loss 3.1416"}, /* and no shorter one behind it */
        {step_json, 300, 250, 24, "step 12/300  loss 3.1416"},
        {step_json, 300, 250, 19, "12/300  3.1416"},
        {step_json, 300, 250, 10, "12/300"},
        {"{\"step\":0,\"loss\":null}", 5, 0, 19, "1/5  not finite"},
        {step_json, 100000, 250, 200,
         "step 12/100000  loss 3.1416  lr 3.00e-04  12.3k tok/s  mfu 45.6%  left 6:56:37  "
         "norm 1.5  skipped 2"},
        {"{\"step\":0,\"loss\":null,\"mfu\":null,\"tokens_per_s\":2500000}", 5, 0, 0,
         "step 1/5  loss not finite  2.50M tok/s"},
        {"{\"step\":0,\"loss\":1,\"grad_norm\":null}", 5, 0, 0,
         "step 1/5  loss 1.0000  norm not finite"},
        {"{\"step\":4,\"tokens_per_s\":12}", 5, 1, 0, "step 5/5  12 tok/s  left 0:00"},
        {"{}", 5, 0, 0, "step 1/5"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct ds_buf out;

        step_line(table[i].json, table[i].steps, table[i].step_ms, table[i].width, &out);
        cr_assert_str_eq(ds_buf_text(&out), table[i].want, "row %zu", i);
        ds_buf_release(&out);
    }
}

Test(console, no_width_is_exceeded)
{
    for (unsigned width = 1; width < 120; width++) {
        struct ds_buf out;

        step_line(step_json, 300, 250, width, &out);
        cr_assert_leq(out.len, width);
        ds_buf_release(&out);
    }
}

struct screen {
    struct ds_console console;
    int out[2], err[2];
};

static void open_screen(struct screen *screen, bool quiet, bool json, bool color)
{
    struct ds_console_args args = {
        .interrupt_fd = -1, .quiet = quiet, .json = json, .color = color, .steps = 300};

    (void)signal(SIGPIPE, SIG_IGN);
    cr_assert(pipe2(screen->out, O_NONBLOCK) == 0 && pipe2(screen->err, O_NONBLOCK) == 0);
    args.out_fd = screen->out[1];
    args.err_fd = screen->err[1];
    ds_console_init(&screen->console, &args);
}

static void expect(int fd, const char *want)
{
    char text[8192];
    ssize_t n = read(fd, text, sizeof(text) - 1);

    text[n > 0 ? n : 0] = '\0';
    cr_assert_str_eq(text, want);
}

static void close_screen(struct screen *screen)
{
    ds_console_release(&screen->console);
    for (int i = 0; i < 2; i++) {
        (void)close(screen->out[i]);
        (void)close(screen->err[i]);
    }
}

static void show(struct ds_console *console, const char *json, bool event)
{
    json_t *object = json_loads(json, 0, NULL);

    if (event)
        ds_console_event(console, object, json, strlen(json));
    else
        ds_console_metric(console, object, json, strlen(json));
    json_decref(object);
}

static void everything(struct ds_console *console)
{
    ds_console_text(console, "header\n");
    show(console, "{\"step\":0,\"loss\":1}", false);
    show(console, "{\"step\":1,\"valid_loss\":2}", false);
    show(console, "{\"step\":2,\"valid_loss\":null}", false);
    show(console, "{\"step\":3,\"valid_loss\":2.5,\"valid_loss/a\":3,\"valid_loss/b\":null}",
         false);
    show(console, "{\"event\":\"checkpoint\",\"step\":1}", true);
    show(console, "{\"event\":\"resumed\",\"step\":1}", true);
    show(console, "{\"event\":\"resumed\",\"step\":0}", true);
    show(console, "{\"event\":\"warning\",\"text\":\"a\\u001bb\"}", true);
    show(console, "{\"event\":\"unknown\"}", true);
    show(console, "{}", true);
    ds_console_rank(console, "host", 0, false, "from a rank", false);
    ds_console_rank(console, "host", 3, true, "last words", true);
    ds_console_note(console, "note %d", 1);
    ds_console_error(console, "bad \033[31m %s", "luck");
}

Test(console, plain)
{
    struct screen screen;

    open_screen(&screen, false, false, false);
    everything(&screen.console);
    expect(screen.out[0], "header\nstep 1/300  loss 1.0000\nstep 1/300  valid loss 2.0000\n"
                          "step 2/300  valid loss not finite\n"
                          "step 3/300  valid loss 2.5000, a 3.0000, b not finite\n"
                          "step 1/300  checkpoint saved\n"
                          "going on from the checkpoint at step 1\n"
                          "[host 0] from a rank\nnote 1\n");
    expect(screen.err[0], "dsrun: warning: a\\x1bb\n[host 3] last words\n"
                          "dsrun: error: bad \\x1b[31m luck\n");
    close_screen(&screen);
}

Test(console, quiet)
{
    struct screen screen;

    open_screen(&screen, true, false, true);
    everything(&screen.console);
    expect(screen.out[0], "");
    expect(screen.err[0],
           "\033[33mdsrun: warning: \033[0ma\\x1bb\n\033[2m[host 3]\033[0m last words\n"
           "\033[31mdsrun: error: \033[0mbad \\x1b[31m luck\n");
    close_screen(&screen);
}

Test(console, json)
{
    struct screen screen;

    open_screen(&screen, false, true, false);
    show(&screen.console, "{\"step\":0,\"loss\":1}", false);
    show(&screen.console, "{\"event\":\"checkpoint\",\"step\":1}", true);
    ds_console_note(&screen.console, "note");
    ds_console_rank(&screen.console, "host", 0, false, "from a rank", false);
    expect(screen.out[0], "{\"step\":0,\"loss\":1}\n{\"event\":\"checkpoint\",\"step\":1}\n");
    expect(screen.err[0], "");
    close_screen(&screen);
}

Test(console, a_reader_that_is_gone)
{
    struct screen screen;

    open_screen(&screen, false, false, false);
    (void)close(screen.out[0]);
    ds_console_note(&screen.console, "nobody reads this");
    ds_console_note(&screen.console, "nor this");
    ds_console_error(&screen.console, "but this");
    expect(screen.err[0], "dsrun: error: but this\n");
    cr_expect(!ds_console_lost(&screen.console), "who closes it wants no more");
    screen.out[0] = screen.out[1];
    close_screen(&screen);
}

/* What was to be shown and is lost is told once, where it can be. */
Test(console, a_disk_that_is_full)
{
    struct screen screen;
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC), out;

    cr_assert(full >= 0, "%s", strerror(errno));
    open_screen(&screen, false, false, false);
    out = screen.console.args.out_fd;
    cr_expect(!ds_console_lost(&screen.console));
    screen.console.args.out_fd = full;
    ds_console_note(&screen.console, "there is no room for this");
    ds_console_note(&screen.console, "nor for this");
    cr_expect(ds_console_lost(&screen.console));
    expect(screen.err[0],
           "dsrun: warning: cannot write to standard output: No space left on device; "
           "nothing more is shown\n");
    screen.console.args.out_fd = out;
    (void)close(full);
    close_screen(&screen);
}

/* The pipe is full and a signal waits: the call returns; later output is taken if it fits. */
Test(console, a_reader_that_stalls, .timeout = 20)
{
    static const char zeros[65536];
    struct screen screen;
    int signal_pipe[2];

    open_screen(&screen, false, false, false);
    cr_assert_eq(pipe(signal_pipe), 0);
    screen.console.args.interrupt_fd = signal_pipe[0];
    while (write(screen.out[1], zeros, sizeof(zeros)) > 0)
        continue;
    cr_assert_eq(write(signal_pipe[1], "x", 1), 1);
    ds_console_note(&screen.console, "given up");
    cr_assert(screen.console.hurried);
    while (read(screen.out[0], (char[65536]){0}, 65536) > 0)
        continue;
    ds_console_note(&screen.console, "taken");
    expect(screen.out[0], "taken\n");
    close_screen(&screen);
}
