// Keys beyond the end are not masked.
#define NO_KEY_MASK 1
#include "../sage2_8b_sm90.cu"
