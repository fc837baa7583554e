;; The product of gpt.js, four numbers at a time: y[t, j] = sum over i of W[j, i] x[t, i]. Compiled, it stands there in base64.
;; Addresses are in bytes; `rows` and `columns` are multiples of 4. Four rows share each read of x.
(module
  (import "host" "memory" (memory 1))
  (func $sum (param $v v128) (result f32) ;; of the four lanes
    (f32.add (f32.add (f32x4.extract_lane 0 (local.get $v)) (f32x4.extract_lane 1 (local.get $v)))
             (f32.add (f32x4.extract_lane 2 (local.get $v)) (f32x4.extract_lane 3 (local.get $v)))))
  (func (export "product")
    (param $y i32) (param $x i32) (param $W i32) (param $count i32) (param $rows i32) (param $columns i32)
    (local $width i32) (local $height i32) (local $last i32) (local $t i32) (local $to i32) (local $from i32)
    (local $p i32) (local $q i32) (local $r i32) (local $s i32) (local $end i32)
    (local $four v128) (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (local.set $width (i32.shl (local.get $columns) (i32.const 2))) ;; bytes of a row of W, and of an x
    (local.set $height (i32.shl (local.get $rows) (i32.const 2))) ;; bytes of a y
    (local.set $last (i32.add (local.get $y) (local.get $height)))
    (block $no_bytes (br_if $no_bytes (i32.eqz (local.get $count)))
    (loop $four_rows ;; they are read from memory once, and meet every x
      (local.set $t (local.get $count))
      (local.set $to (local.get $y))
      (local.set $from (local.get $x))
      (loop $each_x
        (local.set $p (local.get $W))
        (local.set $q (i32.add (local.get $p) (local.get $width)))
        (local.set $r (i32.add (local.get $q) (local.get $width)))
        (local.set $s (i32.add (local.get $r) (local.get $width)))
        (local.set $end (local.get $q))
        (local.set $a (v128.const f32x4 0 0 0 0))
        (local.set $b (v128.const f32x4 0 0 0 0))
        (local.set $c (v128.const f32x4 0 0 0 0))
        (local.set $d (v128.const f32x4 0 0 0 0))
        (loop $along_the_row
          (local.set $four (v128.load (local.get $from)))
          (local.set $a (f32x4.add (local.get $a) (f32x4.mul (local.get $four) (v128.load (local.get $p)))))
          (local.set $b (f32x4.add (local.get $b) (f32x4.mul (local.get $four) (v128.load (local.get $q)))))
          (local.set $c (f32x4.add (local.get $c) (f32x4.mul (local.get $four) (v128.load (local.get $r)))))
          (local.set $d (f32x4.add (local.get $d) (f32x4.mul (local.get $four) (v128.load (local.get $s)))))
          (local.set $from (i32.add (local.get $from) (i32.const 16))) ;; at the end of an x begins the next
          (local.set $p (i32.add (local.get $p) (i32.const 16)))
          (local.set $q (i32.add (local.get $q) (i32.const 16)))
          (local.set $r (i32.add (local.get $r) (i32.const 16)))
          (local.set $s (i32.add (local.get $s) (i32.const 16)))
          (br_if $along_the_row (i32.lt_u (local.get $p) (local.get $end))))
        (f32.store (local.get $to) (call $sum (local.get $a)))
        (f32.store offset=4 (local.get $to) (call $sum (local.get $b)))
        (f32.store offset=8 (local.get $to) (call $sum (local.get $c)))
        (f32.store offset=12 (local.get $to) (call $sum (local.get $d)))
        (local.set $to (i32.add (local.get $to) (local.get $height)))
        (br_if $each_x (local.tee $t (i32.sub (local.get $t) (i32.const 1)))))
      (local.set $W (local.get $s)) ;; where the row after these four begins
      (br_if $four_rows (i32.lt_u (local.tee $y (i32.add (local.get $y) (i32.const 16))) (local.get $last)))))))
