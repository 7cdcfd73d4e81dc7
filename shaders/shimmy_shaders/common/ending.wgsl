// What becomes of a product; parameter `ending`, see plugins/shimmy_plugins/backends/wgpu/ops/ending.py.
# if ending == "swiglu"
# include "shimmy/common/silu.wgsl"
fn gated(gate: f32, up: f32) -> f32 { return silu(gate) * up; }
# elif ending == "geglu"
# include "shimmy/common/gelu.wgsl"
fn gated(gate: f32, up: f32) -> f32 { return gelu(gate) * up; }
# elif ending == "gelu"
# include "shimmy/common/gelu.wgsl"
# endif
