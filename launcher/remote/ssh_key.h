/* Copyright the dsrun contributors.
 * SPDX-License-Identifier: Apache-2.0
 *
 * ssh_key.h - can the private key in a file be used?
 *
 * libssh2 says of each key that it cannot use the same thing, after a try that the server counts:
 * so the file is looked at first.
 *
 * Tests   tests/launcher/test_ssh_key.c, tests/fuzz/fuzz_ssh_key.c
 */
#ifndef DS_LAUNCHER_REMOTE_SSH_KEY_H
#define DS_LAUNCHER_REMOTE_SSH_KEY_H

/* Why the key whose file holds `text` cannot be used, as the end of a sentence ("is encrypted:
 * ..."); NULL: it may be. */
const char *ds_ssh_key_refuse(const char *text);

#endif
