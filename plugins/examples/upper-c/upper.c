/* upper: publishes every message in upper case under "upper.<subject>". */
#define CPI_MAIN
#include "cpi.h"

static uint8_t subject[256] = "upper.";

CPI_EXPORT(cpi_on_batch) int32_t cpi_on_batch(uint8_t *inbox, uint32_t len, uint32_t count) {
  cpi_msg *m = (cpi_msg *)inbox;
  for (uint32_t i = 0; i < count; i++, m = cpi_next(m)) {
    if (m->subject_len > sizeof subject - 6) {
      static const char reason[] = "subject over 250 bytes";
      cpi_settle(i, CPI_TERM, 0, reason, sizeof reason - 1);
      continue;
    }
    for (uint32_t j = 0; j < m->subject_len; j++) subject[6 + j] = cpi_subject(m)[j];
    uint8_t *data = cpi_data(m);
    for (uint32_t j = 0; j < m->data_len; j++)
      if (data[j] >= 'a' && data[j] <= 'z') data[j] -= 32;
    int32_t rc = cpi_publish(i, subject, 6 + m->subject_len, 0, 0, data, m->data_len);
    if (rc < 0) return rc; /* nothing of the batch happens */
  }
  return 0; /* every message is acknowledged */
}
