/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * Classic BPF instruction codes: bcc's copy of linux/bpf.h includes them, programs in C need none.
 */
#pragma once
