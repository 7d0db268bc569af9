// O rescaled and added to in two roundings.
#define UNFUSED_RESCALE 1
#include "../sage2_8b_sm90.cu"
