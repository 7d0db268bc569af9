// No second level: one accumulator in the tensor core over all keys.
#define ONE_LEVEL 1
#include "../sage2_8b_sm90.cu"
