/* cpi.h: the interface CPI 1 of consumer plugins, for C. Needs no libc.
 *
 *   clang --target=wasm32 -O2 -nostdlib -Wl,--no-entry -Wl,-z,stack-size=16384 -I sdk/c -o x.wasm x.c
 *
 * Exactly one file of a plugin defines CPI_MAIN before it includes this header; it gets the inbox and
 * the marker. The plugin itself is the function cpi_on_batch, and optionally cpi_init and cpi_on_tick:
 *
 *   CPI_EXPORT(cpi_on_batch) int32_t cpi_on_batch(uint8_t *inbox, uint32_t len, uint32_t count);
 *
 * The normative text is plugins/ABI.md. */
#ifndef CPI_H
#define CPI_H

#include <stdint.h>

#define CPI_EXPORT(name) __attribute__((export_name(#name)))
#define CPI_IMPORT(name) __attribute__((import_module("cpi1"), import_name(#name)))

/* A message in the inbox. subject, header and data follow the struct; the next message is frame_len
 * bytes further. All of it may be changed in place. */
typedef struct {
  uint32_t frame_len;
  uint32_t delivered; /* 1 = first try */
  uint64_t stream_seq;
  uint64_t consumer_seq;
  int64_t time_ns;
  uint32_t subject_len;
  uint32_t header_len;
  uint32_t data_len;
  uint32_t flags; /* CPI_AFTER_TRAP */
  uint8_t bytes[];
} cpi_msg;

enum { CPI_AFTER_TRAP = 1 };

static inline uint8_t *cpi_subject(cpi_msg *m) { return m->bytes; }
static inline uint8_t *cpi_header(cpi_msg *m) { return m->bytes + m->subject_len; }
static inline uint8_t *cpi_data(cpi_msg *m) { return m->bytes + m->subject_len + m->header_len; }
static inline cpi_msg *cpi_next(cpi_msg *m) { return (cpi_msg *)((uint8_t *)m + m->frame_len); }

/* What an import returns when it is below 0. */
enum {
  CPI_OK = 0,
  CPI_INVALID = -1,
  CPI_DENIED = -2,
  CPI_NOT_FOUND = -3,
  CPI_CONFLICT = -5,
  CPI_LIMIT = -6,
  CPI_UNAVAILABLE = -7,
  CPI_UNSUPPORTED = -8,
};

enum { CPI_WHOLE_BATCH = -1 };                                         /* msg */
enum { CPI_ACK = 0, CPI_NAK = 1, CPI_TERM = 2, CPI_DEAD_LETTER = 3 };  /* kind of settle */
enum { CPI_DEBUG = 0, CPI_INFO = 1, CPI_WARN = 2, CPI_ERROR = 3 };     /* level of log */
enum { CPI_COUNTER = 0, CPI_GAUGE = 1 };                               /* kind of metric */
enum { CPI_ANY_REVISION = -1, CPI_CREATE = 0 };                        /* rev of kv_put, kv_delete */

CPI_IMPORT(publish)
int32_t cpi_publish(int32_t msg, const void *subject, uint32_t subject_len, const void *header,
                    uint32_t header_len, const void *data, uint32_t data_len);
CPI_IMPORT(settle)
int32_t cpi_settle(int32_t msg, int32_t kind, int64_t delay_ns, const void *reason, uint32_t reason_len);
CPI_IMPORT(kv_get)
int32_t cpi_kv_get(const void *bucket, uint32_t bucket_len, const void *key, uint32_t key_len, void *out,
                   uint32_t cap, void *meta);
CPI_IMPORT(kv_put)
int32_t cpi_kv_put(int32_t msg, const void *bucket, uint32_t bucket_len, const void *key, uint32_t key_len,
                   const void *value, uint32_t value_len, int64_t rev);
CPI_IMPORT(kv_delete)
int32_t cpi_kv_delete(int32_t msg, const void *bucket, uint32_t bucket_len, const void *key,
                      uint32_t key_len, int64_t rev);
CPI_IMPORT(log) void cpi_log(int32_t level, const void *text, uint32_t text_len);
CPI_IMPORT(now) int64_t cpi_now(void);
CPI_IMPORT(config) int32_t cpi_config(void *out, uint32_t cap);
CPI_IMPORT(metric) int32_t cpi_metric(const void *name, uint32_t name_len, int32_t kind, int64_t value);
CPI_IMPORT(random) int32_t cpi_random(void *out, uint32_t len);

#ifdef CPI_MAIN
CPI_EXPORT(cpi_abi_1) void cpi_abi_1(void) {}

extern uint8_t __heap_base; /* set by wasm-ld: the end of data and stack */

/* The inbox is all memory from the heap base on. A plugin with an allocator of its own defines
 * CPI_OWN_BUF and exports cpi_buf itself. */
#ifndef CPI_OWN_BUF
CPI_EXPORT(cpi_buf) uint8_t *cpi_buf(uint32_t min) {
  uintptr_t start = ((uintptr_t)&__heap_base + 7) & ~(uintptr_t)7;
  uintptr_t have = __builtin_wasm_memory_size(0) << 16;
  if (min > have - start) {
    uintptr_t pages = (min - (have - start) + 65535) >> 16;
    if (__builtin_wasm_memory_grow(0, pages) == (uintptr_t)-1) return 0;
  }
  return (uint8_t *)start;
}
#endif
#endif

#endif
