// Activations to 8 bits: x = scale * code, code from -127 to 127, the scale that of a block of 32 columns.

// The largest magnitude, as an integer, since NaN is the largest of them: damage in must be damage out.
fn magnitude(v: vec4<f32>) -> u32 {
    let bits = bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
    return max(max(bits.x, bits.y), max(bits.z, bits.w));
}
fn quantized_scale(largest: u32) -> f32 { return bitcast<f32>(largest) / 127.0; }
// The codes of 4 columns; a block of less than 1e-30 is zero, since 127 / x must be finite.
fn quantized(v: vec4<f32>, largest: u32) -> u32 {
    let most = bitcast<f32>(largest);
    let inverse = select(0.0, 127.0 / most, most > 1e-30);
    return pack4xI8(vec4<i32>(clamp(round(v * inverse), vec4<f32>(-127.0), vec4<f32>(127.0))));
}
fn sum_of_codes(codes: u32) -> i32 { return dot4I8Packed(codes, 0x01010101u); }
