/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * bcc includes this first, and takes the folder for a kernel tree because it is here. All that its helpers.h asks of the
 * kernel's configuration is that bpf(2) is compiled in.
 */
#pragma once
#define CONFIG_BPF_SYSCALL 1
