#!/bin/sh
# Copyright the dsrun contributors.
# SPDX-License-Identifier: Apache-2.0
#
# alias - what the head's sshd runs for a command sent to aliasK: that command, under the hostname aliasK.
# up.sh copies it to BASE/bin/as-alias.
address=${SSH_CONNECTION% *}
address=${address##* 127.1.}
name=alias$((${address%.*} * 250 + ${address#*.} - 1))
user=
[ "$(id -u)" = 0 ] || user='--user --map-current-user --keep-caps'
# shellcheck disable=SC2086,SC2016 # options, one a word; for the inner shell
exec unshare --uts $user sh -c 'hostname "$0"; exec "$SHELL" -c "${SSH_ORIGINAL_COMMAND:-exec $SHELL -l}"' "$name"
