// x * Phi(x) by its approximation with tanh, which is a sigmoid. Past 30 nothing changes any more but x, and less far
// its cube cannot overflow; of exp(88) and on, nothing is left of x.
fn gelu(x: f32) -> f32 {
    let near = clamp(x, -30.0, 30.0);
    let inner = 1.5957691216057308 * fma(0.044715 * near * near, near, near);
    return x / (1.0 + exp(min(-inner, 88.0)));
}
