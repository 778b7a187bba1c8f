/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * test_terminal.c - the live line of a terminal, which is a pseudo-terminal here: what a screen gets, byte
 * by byte.
 */
#include <criterion/criterion.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "cli/console.h"

#define CLEAR "\r\033[K"

struct screen {
    int user, program; /* the two ends */
    struct ds_console console;
};

static void open_screen(struct screen *screen, unsigned short columns, const char *term)
{
    const struct winsize size = {.ws_row = 24, .ws_col = columns};
    struct ds_console_args args = {.interrupt_fd = -1, .steps = 300};
    struct termios raw;
    char name[64];

    screen->user = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert_geq(screen->user, 0);
    cr_assert(grantpt(screen->user) == 0 && unlockpt(screen->user) == 0);
    cr_assert_eq(ptsname_r(screen->user, name, sizeof(name)), 0);
    screen->program = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert_geq(screen->program, 0, "%s", name);
    cr_assert_eq(tcgetattr(screen->program, &raw), 0);
    cfmakeraw(&raw); /* a newline stays one byte */
    cr_assert_eq(tcsetattr(screen->program, TCSANOW, &raw), 0);
    cr_assert_eq(ioctl(screen->program, TIOCSWINSZ, &size), 0);
    cr_assert_eq(term == NULL ? unsetenv("TERM") : setenv("TERM", term, 1), 0);
    args.out_fd = args.err_fd = screen->program;
    ds_console_init(&screen->console, &args);
}

static void close_screen(struct screen *screen)
{
    ds_console_release(&screen->console);
    (void)close(screen->program);
    (void)close(screen->user);
}

/* All of `want` comes, and nothing is behind it. */
static void expect(const struct screen *screen, const char *want)
{
    struct pollfd wait = {.fd = screen->user, .events = POLLIN};
    char got[1024] = "";
    size_t len = 0;

    while (len < strlen(want) && poll(&wait, 1, 10000) == 1) {
        ssize_t n = read(screen->user, got + len, sizeof(got) - 1 - len);

        cr_assert_gt(n, 0);
        len += (size_t)n;
        got[len] = '\0';
    }
    cr_assert_str_eq(got, want);
    cr_assert_eq(poll(&wait, 1, 0), 0, "more than '%s'", want);
}

static void metric(struct screen *screen, unsigned step, double ms)
{
    json_t *object = json_pack("{s:i,s:f,s:f}", "step", (int)step, "loss", 3.5, "step_ms", ms);

    ds_console_metric(&screen->console, object, "", 0);
    json_decref(object);
}

/* As after so much time that the line may be drawn again. */
static void let_time_pass(struct screen *screen)
{
    screen->console.drawn_ns = 0;
}

Test(terminal, one_line_is_drawn_again_and_again)
{
    struct screen screen;

    open_screen(&screen, 80, "xterm");
    metric(&screen, 0, 1000);
    expect(&screen, CLEAR "step 1/300  loss 3.5000  left 4:59");
    let_time_pass(&screen);
    metric(&screen, 1, 2000); /* the first step, which warms up, is forgotten */
    expect(&screen, CLEAR "step 2/300  loss 3.5000  left 9:56");
    let_time_pass(&screen);
    metric(&screen, 2, 1000); /* those behind it are smoothed */
    expect(&screen, CLEAR "step 3/300  loss 3.5000  left 9:24");
    screen.console.drawn_ns = UINT64_MAX / 2; /* just now */
    metric(&screen, 3, 1000);
    expect(&screen, "");
    metric(&screen, 299, 1000); /* the last one is always shown */
    expect(&screen, CLEAR "step 300/300  loss 3.5000  left 0:00");
    ds_console_settle(&screen.console);
    expect(&screen, "\n");
    ds_console_settle(&screen.console); /* there is none any more */
    expect(&screen, "");
    close_screen(&screen);
}

Test(terminal, what_stays_goes_above_the_line)
{
    struct screen screen;

    open_screen(&screen, 80, "xterm");
    ds_console_text(&screen.console, "head\n");
    expect(&screen, "head\n");
    metric(&screen, 0, 0);
    expect(&screen, CLEAR "step 1/300  loss 3.5000");
    ds_console_note(&screen.console, "a note \033[2J");
    expect(&screen, CLEAR "a note \\x1b[2J\n"
                          "step 1/300  loss 3.5000");
    ds_console_rank(&screen.console, "node1", 3, true, "a line", true);
    expect(&screen, CLEAR "[node1 3] a line\n"
                          "step 1/300  loss 3.5000");
    ds_console_release(&screen.console);
    expect(&screen, "\n");
    close_screen(&screen);
}

Test(terminal, no_line_is_wider_than_the_screen)
{
    static const struct {
        unsigned short columns;
        const char *want;
    } table[] = {
        {30, CLEAR "step 1/300  loss 3.5000"},
        {24, CLEAR "step 1/300  loss 3.5000"}, /* the last column stays free */
        {23, CLEAR "1/300  3.5000"},
        {0, CLEAR "step 1/300  loss 3.5000  left 4:59"},
    };

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        struct screen screen;

        open_screen(&screen, table[i].columns, "xterm");
        metric(&screen, 0, 1000);
        expect(&screen, table[i].want);
        close_screen(&screen);
    }
}

/* A terminal that cannot go back to the start of a line gets lines. */
Test(terminal, a_dumb_one_scrolls)
{
    static const char *const terms[] = {"dumb", NULL};

    for (size_t i = 0; i < 2; i++) {
        struct screen screen;

        open_screen(&screen, 80, terms[i]);
        metric(&screen, 0, 0);
        expect(&screen, "step 1/300  loss 3.5000\n");
        close_screen(&screen);
    }
}
