/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * boot.c - the contract is in boot.h.
 *
 * The script stands between single quotes in whatever shell the user has on the host, csh and fish
 * among them: no quote, no newline, no '!' and no backslash before a quote may be in it.
 */
#include "launcher/remote/boot.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/buf.h"

/* p folder, b build, r nonce, a n agent's hash and size, w m worker's; d the cache folder.
 *   t  tell the launcher         e  end with a reason        q  has FILE this hash?
 *   k  is program NAME in DIR the one with this hash         o  has DIR all that is needed?
 *   f  a folder of our own that nobody else may write to     u  get program NAME if need be
 *   s  sweep up what copies that broke off an hour ago or longer have left */
/* clang-format off */
const char ds_boot_command[] =
    "exec /bin/sh -c '"
    "IFS= read -r p && read -r b r a n w m || exit 65; "
    "t() { printf \"\\nDSRUN %s %s\\n\" \"$r\" \"$*\"; }; "
    "t here; read -r y && [ \"$y\" = go ] || exit 65; "
    "e() { t no \"$*\"; exit 69; }; "
    "q() { h=$(sha256sum <\"$1\") && [ \"${h%% *}\" = \"$2\" ]; }; "
    "k() { [ -f \"$1/$2\" ] && [ -x \"$1/$2\" ] && q \"$1/$2\" \"$3\"; }; "
    "o() { k \"$1\" dsrun-agent \"$a\" && { [ \"$w\" = - ] || k \"$1\" dsrun-worker \"$w\"; }; }; "
    "g() { t go; exec \"$1/dsrun-agent\"; }; "
    "f() { [ -d \"$1\" ] || mkdir -m 700 \"$1\" 2>/dev/null; "
        "[ -L \"$1\" ] && e \"$1 is a symbolic link\"; "
        "[ -d \"$1\" ] && [ -O \"$1\" ] && chmod 700 \"$1\" || e \"cannot use the folder $1\"; }; "
    "s() { find \"$d\" -maxdepth 1 -type f -name \".dsrun-*\" -user \"$(id -u)\" -mmin +60 "
        "-exec rm -f {} + ; } 2>/dev/null; "
    "u() { k \"$d\" \"$1\" \"$2\" && return; s; x=\"$d/.$1.$r\"; t put \"$1\"; "
        "( umask 077; set -C; head -c \"$3\" >\"$x\" ) && q \"$x\" \"$2\" && chmod 700 \"$x\" && "
        "mv -f \"$x\" \"$d/$1\" || { rm -f \"$x\"; e \"cannot write $1 into $d\"; }; }; "
    "if [ \"$a\" = - ]; then [ -x \"$p/dsrun-agent\" ] && g \"$p\"; "
        "e \"$p/dsrun-agent is not installed and may not be pushed\"; fi; "
    "command -v sha256sum >/dev/null || e \"no sha256sum: install dsrun and use --push never\"; "
    "o \"$p\" && g \"$p\"; "
    "c=${XDG_CACHE_HOME:-$HOME/.cache}; d=$c/dsrun/$b; "
    "( umask 077; mkdir -p \"$c\" 2>/dev/null ); f \"$c/dsrun\"; f \"$d\"; "
    "u dsrun-agent \"$a\" \"$n\"; [ \"$w\" = - ] || u dsrun-worker \"$w\" \"$m\"; g \"$d\"'";
/* clang-format on */

static const char go[] = "go\n";
static const char *const names[DS_BOOT_PROGRAMS] = {"dsrun-agent", "dsrun-worker"};

/* --- the plan --------------------------------------------------------------------------------- */

static int hash_program(struct ds_boot_plan *plan, size_t i, struct ds_error *err)
{
    unsigned char hash[EVP_MAX_MD_SIZE];
    char path[DS_MAX_PATH];
    unsigned int bytes = 0;
    int rc = ds_path_join(path, plan->folder, names[i], err);

    if (rc == 0)
        rc = ds_fs_map(path, &plan->program[i], err);
    if (rc != 0)
        return rc;
    if (EVP_Digest(plan->program[i].data, plan->program[i].len, hash, &bytes, EVP_sha256(), NULL) !=
        1)
        return ds_fail(err, ENOMEM, "cannot hash '%s'", path);
    for (unsigned b = 0; b < bytes && b < 32; b++)
        (void)snprintf(plan->hash[i] + 2 * (size_t)b, 3, "%02x", hash[b]);
    return 0;
}

int ds_boot_plan_open(struct ds_boot_plan *plan, const char *folder, const char *build, bool push,
                      bool worker, struct ds_error *err)
{
    int rc = 0;

    *plan = (struct ds_boot_plan){
        .folder = folder, .build = build, .program = {{.fd = -1}, {.fd = -1}}, .hash = {"-", "-"}};
    if (strchr(folder, '\n') != NULL)
        return ds_fail(err, EINVAL, "the folder of dsrun's programs has a newline in its name");
    for (size_t i = 0; rc == 0 && push && i < (worker ? 2 : 1); i++)
        rc = hash_program(plan, i, err);
    if (rc != 0)
        ds_boot_plan_release(plan);
    return rc;
}

void ds_boot_plan_release(struct ds_boot_plan *plan)
{
    for (size_t i = 0; i < DS_BOOT_PROGRAMS; i++)
        ds_map_release(&plan->program[i]);
    *plan = (struct ds_boot_plan){.program = {{.fd = -1}, {.fd = -1}}};
}

/* --- one host --------------------------------------------------------------------------------- */

int ds_boot_init(struct ds_boot *boot, const struct ds_boot_plan *plan, bool held,
                 struct ds_error *err)
{
    unsigned char random[16];
    struct ds_buf text;

    *boot = (struct ds_boot){.plan = plan, .held = held};
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return ds_fail(err, errno, "cannot get random bytes: %s", strerror(errno));
    for (size_t i = 0; i < sizeof(random); i++)
        (void)snprintf(boot->nonce + 2 * i, 3, "%02x", random[i]);
    ds_buf_init(&text, DS_MAX_PATH + 512);
    (void)ds_buf_printf(&text, "%s\n%s %s %s %zu %s %zu\n%s", plan->folder, plan->build,
                        boot->nonce, plan->hash[0], plan->program[0].len, plan->hash[1],
                        plan->program[1].len, held ? "" : go);
    if (text.failed) {
        ds_buf_release(&text);
        return ds_fail(err, ENOMEM, "no memory to start an agent");
    }
    boot->request = text.data; /* the buffer's memory moves here */
    boot->out = boot->request;
    boot->out_bytes = text.len;
    return 0;
}

void ds_boot_release(struct ds_boot *boot)
{
    free(boot->request);
    *boot = (struct ds_boot){0};
}

void ds_boot_sent(struct ds_boot *boot, size_t n)
{
    boot->out += n;
    boot->out_bytes -= n;
}

void ds_boot_go(struct ds_boot *boot)
{
    assert(boot->held && boot->here && boot->out_bytes == 0);
    boot->held = false;
    boot->out = go;
    boot->out_bytes = strlen(go);
}

static int take_put(struct ds_boot *boot, const char *name, struct ds_error *err)
{
    for (size_t i = 0; i < DS_BOOT_PROGRAMS; i++) {
        if (strcmp(name, names[i]) != 0 || boot->plan->program[i].len == 0)
            continue;
        if (boot->out_bytes > 0)
            break;
        boot->out = boot->plan->program[i].data;
        boot->out_bytes = boot->plan->program[i].len;
        boot->pushed = true;
        return 0;
    }
    return ds_fail(err, EPROTO, "the host asked for what nobody offered");
}

static int take_line(struct ds_boot *boot, struct ds_error *err)
{
    char start[sizeof("DSRUN ") + sizeof(boot->nonce) + 1];
    const char *text = boot->line;
    size_t len = (size_t)snprintf(start, sizeof(start), "DSRUN %s ", boot->nonce);

    if (strncmp(text, start, len) != 0)
        return 0; /* noise of a login */
    text += len;
    if (strcmp(text, "here") == 0) {
        if (boot->held && boot->out_bytes > 0)
            return ds_fail(err, EPROTO, "the host answered before it was asked");
        boot->here = true;
        return 0;
    }
    if (boot->held && strncmp(text, "no ", 3) != 0)
        return ds_fail(err, EPROTO, "the host began before it was told to");
    if (strcmp(text, "go") == 0)
        return 1;
    if (strncmp(text, "put ", 4) == 0)
        return take_put(boot, text + 4, err);
    if (strncmp(text, "no ", 3) == 0)
        return ds_fail(err, EHOSTUNREACH, "%s",
                       text[3] != '\0' ? text + 3 : "the host does not say why");
    return ds_fail(err, EPROTO, "the host sent a line that nobody knows");
}

int ds_boot_feed(struct ds_boot *boot, const void *bytes, size_t len, size_t *used,
                 struct ds_error *err)
{
    const char *text = bytes;
    int rc = 0;

    for (*used = 0; rc == 0 && *used < len;) {
        char c = text[(*used)++];

        if (c == '\n') {
            boot->line[boot->line_bytes] = '\0';
            boot->line_bytes = 0;
            rc = take_line(boot, err);
        } else if (boot->line_bytes < sizeof(boot->line) - 1) {
            boot->line[boot->line_bytes++] = c;
        }
        if (rc == 0 && ++boot->noise > DS_MAX_BANNER_BYTES)
            return ds_fail(err, EPROTO, "no answer within %d bytes", DS_MAX_BANNER_BYTES);
    }
    return rc;
}
