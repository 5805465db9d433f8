/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * bcc writes LINUX_VERSION_CODE into the program; kernels since 5.0 ignore it. A number above every real version also
 * makes bcc's helpers.h choose its newest forms.
 */
#pragma once
#define KERNEL_VERSION(major, minor, patch) (((major) << 16) + ((minor) << 8) + (patch))
#define LINUX_VERSION_CODE KERNEL_VERSION(255, 255, 255)
