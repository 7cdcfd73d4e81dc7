// x * sigmoid(x); of exp(88) and on, nothing is left of x.
fn silu(x: f32) -> f32 { return x / (1.0 + exp(min(-x, 88.0))); }
