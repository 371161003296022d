#include <event2/buffer.h>
