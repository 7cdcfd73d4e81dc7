// The half float nearest to x, ties to even, infinity from 65520 on. pack2x16float may round and flush as it likes.
fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let size = bits & 0x7fffffffu;
    if (size >= 0x47800000u) { return sign | select(0x7c00u, 0x7e00u, size > 0x7f800000u); }
    if (size >= 0x38800000u) {
        return sign | ((size - 0x38000000u + 0xfffu + ((size >> 13u) & 1u)) >> 13u);
    }
    // Below 2^-14 they are multiples of 2^-24; up to half of one is nothing.
    if (size <= 0x33000000u) { return sign; }
    let shift = 126u - (size >> 23u);
    let digits = (size & 0x7fffffu) | 0x800000u;
    let kept = digits >> shift;
    let rest = digits & ((1u << shift) - 1u);
    let middle = 1u << (shift - 1u);
    return sign | (kept + u32(rest > middle || (rest == middle && (kept & 1u) == 1u)));
}
