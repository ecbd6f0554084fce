package featurestore.flink;

/** A number as the unevaluated sum of two doubles: about 106 bits. Dekker (1971), Knuth. */
record Pair(double hi, double lo) {
    static final Pair ZERO = new Pair(0, 0);

    static Pair of(double x) {
        return new Pair(x, 0);
    }

    /** Exact. */
    static Pair sum(double a, double b) {
        double s = a + b;
        double part = s - a;
        return new Pair(s, (a - (s - part)) + (b - part));
    }

    private static Pair settled(double hi, double lo) {
        double s = hi + lo;
        return new Pair(s, lo - (s - hi));
    }

    Pair plus(Pair other) {
        Pair s = sum(hi, other.hi);
        Pair t = sum(lo, other.lo);
        Pair first = settled(s.hi, s.lo + t.hi);
        return settled(first.hi, first.lo + t.lo);
    }

    Pair minus(Pair other) {
        return plus(new Pair(-other.hi, -other.lo));
    }

    Pair times(Pair other) {
        double product = hi * other.hi;
        double error = Math.fma(hi, other.hi, -product);
        return settled(product, error + (hi * other.lo + lo * other.hi));
    }

    Pair times(double x) {
        return times(of(x));
    }

    /** By a number that is not zero. */
    Pair over(double x) {
        double first = hi / x;
        Pair rest = minus(of(x).times(first));
        double second = rest.hi / x;
        return settled(first, second);
    }

    double value() {
        return hi + lo;
    }
}
