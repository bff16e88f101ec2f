package auth
import ("testing";"net/http";"os";"time";"github.com/taskfleet/taskfleet/store/storetest")
func TestZZServe(t *testing.T){
 w:=newWorld(t, storetest.Open(t, storetest.URL(t,"sqlite")))
 os.WriteFile("/tmp/authroot", []byte(w.root.AccessToken), 0600)
 go http.ListenAndServe("127.0.0.1:18080", w.server)
 time.Sleep(100*time.Second)
}
