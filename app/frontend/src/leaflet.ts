// Geoman expects a global named L; the module order makes it so before Geoman loads.
import L from "leaflet";

(globalThis as unknown as { L: typeof L }).L = L;
export default L;
