/* trap: traps on messages that say "trap" and acknowledges all others. It shows what becomes of a
 * poison message: its neighbours are not punished, it is tried again, then dead-lettered. */
#define CPI_MAIN
#include "cpi.h"

static int is_poison(cpi_msg *m) {
  static const char word[] = "trap";
  uint32_t j = 0;
  if (m->data_len != sizeof word - 1) return 0;
  while (j < m->data_len && cpi_data(m)[j] == word[j]) j++;
  return j == m->data_len;
}

__attribute__((noinline)) static void explode(void) { __builtin_trap(); }

CPI_EXPORT(cpi_on_batch) int32_t cpi_on_batch(uint8_t *inbox, uint32_t len, uint32_t count) {
  cpi_msg *m = (cpi_msg *)inbox;
  for (uint32_t i = 0; i < count; i++, m = cpi_next(m))
    if (is_poison(m)) explode();
  return 0;
}
