// P scaled to 256, not to 448.
#define P_OFFSET 8.f
#include "../sage2_8b_sm90.cu"
