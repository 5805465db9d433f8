/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
 *
 * bcc sizes ring buffers in pages. They are the kernel's pages: the loader checks the size when it makes the map.
 */
#pragma once
#define PAGE_SIZE 4096
