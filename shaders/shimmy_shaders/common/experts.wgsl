// Which expert a slot has: parameter `slots`; needs a binding `chosen: array<f32>`.
fn expert_of(slot: u32) -> u32 {
    let number = chosen[slot / ${slots.used}u * ${2 * slots.used}u + slot % ${slots.used}u];
    return min(u32(max(number, 0.0)), ${slots.experts - 1}u);
}
